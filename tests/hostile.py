"""Texts that do harm wherever something takes them for more than text: what hypothesis puts together here.

For the names, addresses and passwords of a list, and for what is on a server already.
"""

from __future__ import annotations

from hypothesis import strategies as st

#: What means something to SQL, to shells, to option files, to YAML and Jinja, to HTML, to nft, or to a file system.
PIECES = (
    *"'\"`\\;#%_@$|&<>*?~!/-=:,.()[]{} ^+\t\n\r\0\x07\x1a\x1b\x7f",
    *(
        "''",
        '""',
        "``",
        "\\\\",
        "\\'",
        "\\0",
        "--",
        "-- ",
        "/*",
        "*/",
        "/*!",
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "${",
        "$(",
    ),
    *(
        "%s",
        "%(x)s",
        "%n",
        "../",
        "..",
        "\r\n",
        "\n[mysqld]\n",
        "\n<zeo>\n",
        "\n- ",
        ": ",
        " #",
        "&&",
        "||",
        "&lt;",
        "]]>",
    ),
    # Other letters that look or fold like ones above, line ends of Unicode, and what is no character.
    *"\u00e9\u00df\u0131\u017f\u004b\ufb01\uff07\u02bc\u2019\u2018\u2033\uff1b\u00a0\u0085\u2028\u2029\u200b\u202e\ufeff\ufffd\U0001f600",
    *("a", "b", "x", "0", "1", "root", "peat", "192.0.2.", "2001:db8::"),
)
#: Attacks as a whole, and words that are no names.
WHOLE = (
    "'; DROP DATABASE peat_fuzz_witness; -- ",
    "x'; DROP DATABASE peat_fuzz_witness; #",
    "\\'; DROP DATABASE peat_fuzz_witness; -- ",
    "`; DROP DATABASE peat_fuzz_witness; -- ",
    "x`.* TO 'root'@'%' WITH GRANT OPTION; -- ",
    "' OR '1'='1",
    "x'@'%' IDENTIFIED BY 'x",
    "x'@'localhost",
    "x', 'y') ON DUPLICATE KEY UPDATE user = ('root",
    "x\nGRANT ALL ON *.* TO 'x'@'%'",
    "%",
    "%' AND Host = '%",
    "*.*",
    "$(touch /tmp/peat-fuzz-was-here)",
    "`touch /tmp/peat-fuzz-was-here`",
    "; touch /tmp/peat-fuzz-was-here",
    "| touch /tmp/peat-fuzz-was-here",
    "{{ lookup('pipe', 'touch /tmp/peat-fuzz-was-here') }}",
    "{% set x = lookup('pipe', 'touch /tmp/peat-fuzz-was-here') %}",
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "--></style></title><script>alert(1)</script>",
    "../../../../tmp/peat-fuzz-was-here",
    "/etc/passwd",
    "..",
    ".",
    "-rf",
    "--help",
    "192.0.2.1; drop table inet peat",
    "192.0.2.0/24, 0.0.0.0/0",
    "192.0.2.1\n",
    "fe80::1%eth0",
    "::ffff:192.0.2.1",
    "0x7f000001",
    "null",
    "PUBLIC",
    "CURRENT_USER",
    "mysql",
    "",
    " ",
    "x" * 200,
)

texts = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join),
    st.lists(st.sampled_from((*PIECES, *WHOLE)), min_size=1, max_size=3).map("".join),
    st.sampled_from(WHOLE),
    st.text(max_size=4),
)

#: What a password may consist of, in any order: the printable part of the pieces.
_PRINTABLE = tuple(piece for piece in (*PIECES, *WHOLE) if piece and piece.isascii() and piece.isprintable())
passwords = st.lists(st.sampled_from(_PRINTABLE), min_size=6, max_size=20).map(
    lambda pieces: "".join(pieces).strip()[:100].strip().ljust(12, "'")
)
