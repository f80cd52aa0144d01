"""What the parts of this repository promise each other."""

import glob
import importlib.metadata
import json
import pathlib
import re
import shutil
import subprocess
import sys

import ansible_collections
import pytest
import yaml
from peat.lab import load

ROOT = pathlib.Path(__file__).parents[2]
ROLES = sorted(path.parent.name for path in ROOT.glob("roles/*/tasks"))
SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


def scenario_tests(scenario):
    """The files of a scenario's tests, found as molecule finds them: relative to a folder that exists."""
    folder = read(".config/molecule/config.yml")["verifier"]["directory"]
    folder = pathlib.Path(folder.replace("${MOLECULE_PROJECT_DIRECTORY}", str(ROOT)))
    listed = read(f"molecule/{scenario}/molecule.yml")["verifier"]["additional_files_or_dirs"]
    return [pathlib.Path(found).resolve() for name in listed for found in glob.glob(str(folder / name)) or [name]]


def test_there_is_something_to_check():
    assert {"firewall", "mysql", "peat"} <= set(ROLES)
    assert {"debian12", "debian13", "mysql", "upgrade", "existing"} <= set(SCENARIOS)


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_specs_name_the_same_variables(role):
    specs = read(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    options = {name: option for entry in specs.values() for name, option in entry.get("options", {}).items()}
    # What must be given has no default.
    optional = {name for name, option in options.items() if not option.get("required")}
    assert set(read(f"roles/{role}/defaults/main.yml")) == optional
    assert all(name.startswith(f"{role}_") for name in options)


@pytest.mark.parametrize("role", ROLES)
def test_specs_describe_and_type_every_variable(role):
    def check(options, where):
        for name, option in options.items():
            assert option.get("type"), f"{where}{name} has no type"
            assert option.get("description"), f"{where}{name} has no description"
            check(option.get("options", {}), f"{where}{name}.")

    for entry, spec in read(f"roles/{role}/meta/argument_specs.yml")["argument_specs"].items():
        check(spec.get("options", {}), f"{role}/{entry}: ")


@pytest.mark.parametrize("role", ROLES)
def test_variable_tables_are_those_of_the_specs(role, tmp_path):
    copy = shutil.copytree(ROOT / "roles" / role, tmp_path / role)
    aar_doc = pathlib.Path(sys.executable).with_name("aar-doc")
    subprocess.run([aar_doc, "--config-file", ROOT / ".aar_doc.yml", copy, "markdown"], check=True, capture_output=True)
    assert (copy / "README.md").read_text() == (ROOT / "roles" / role / "README.md").read_text(), "run ./peat docs"


@pytest.mark.parametrize("role", ROLES)
def test_roles_have_the_licence_and_the_ansible_of_the_project(role):
    meta = read(f"roles/{role}/meta/main.yml")["galaxy_info"]
    assert "GNU GENERAL PUBLIC LICENSE" in (ROOT / "LICENSE").read_text()
    assert meta["license"] == "GPL-3.0-or-later"
    assert importlib.metadata.version("ansible-core").startswith(meta["min_ansible_version"] + ".")


def test_galaxy_requirements_are_what_the_pinned_package_brings():
    bundled = pathlib.Path(next(iter(ansible_collections.__path__)))
    for collection in read("requirements.yml")["collections"]:
        manifest = json.loads(bundled.joinpath(*collection["name"].split("."), "MANIFEST.json").read_text())
        assert manifest["collection_info"]["version"] == str(collection["version"]), collection["name"]


def test_no_other_collection_is_used():
    named = {collection["name"] for collection in read("requirements.yml")["collections"]}
    for path in (*ROOT.glob("playbooks/*.yml"), *ROOT.glob("roles/*/[th]*/*.yml"), ROOT / "ansible.cfg"):
        for collection in re.findall(r"^\s*(?:- )?(\w+\.\w+)\.\w+:", path.read_text(), re.MULTILINE):
            assert collection == "ansible.builtin" or collection in named, f"{path.relative_to(ROOT)}: {collection}"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario_runs_tests_that_exist(scenario):
    # Molecule leaves out a file it does not find, without a word.
    tests = scenario_tests(scenario)
    assert tests
    assert [path for path in tests if not path.is_file()] == []


def test_every_host_test_is_run_by_a_scenario():
    run = {path for scenario in SCENARIOS for path in scenario_tests(scenario)}
    assert set((ROOT / "tests/testinfra").glob("test_*.py")) == run


def test_every_scenario_has_networks_of_its_own():
    inventories = [
        *(f"molecule/{scenario}/inventory/hosts.yml" for scenario in SCENARIOS),
        "inventories/demo/hosts.yml",
    ]
    networks = [
        {match.rpartition(".")[0] for match in re.findall(r"ansible_host: (\S+)", (ROOT / path).read_text())}
        for path in inventories
    ]
    assert all(len(of_one) == 1 for of_one in networks)
    assert len(set().union(*networks)) == len(inventories)


@pytest.mark.parametrize("inventory", ["example-lab", "demo"])
def test_the_lists_to_copy_are_right(inventory):
    variables = read(f"inventories/{inventory}/group_vars/all.yml")
    lab = load(variables["peat_networks"], variables["peat_people"], variables["peat_projects"])
    assert lab.matrix


def test_support_table_names_the_images_that_scenarios_boot():
    images = {
        image
        for scenario in SCENARIOS
        for image in re.findall(
            r"testhost_image: (\S+)", (ROOT / f"molecule/{scenario}/inventory/hosts.yml").read_text()
        )
    }
    readme = (ROOT / "README.md").read_text()
    table = readme.split("## What is tested")[1].split("\n## ")[0]
    assert images == set(re.findall(r"`((?:debian|unstable|peat2|relstorage4)[\w-]*)`", table))


def test_relstorage_is_pinned_to_what_the_filter_wants():
    assert importlib.metadata.version("RelStorage") == "4.3.0"


@pytest.mark.parametrize(
    "path", ["README.md", "CHANGELOG.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_prose_is_wrapped(path):
    """Tables and code cannot be."""
    parts = re.split(r"^ *```.*\n", (ROOT / path).read_text(), flags=re.MULTILINE)
    lines = [line for part in parts[::2] for line in part.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 120] == []
