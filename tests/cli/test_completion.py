"""What is made of the parser: completions that know every command, and a manual without faults."""

import shutil
import subprocess

import pytest

from bigbrotr.cli import EXIT_CODES, main, parser
from bigbrotr.cli.completion import SHELLS, manual
from bigbrotr.cli.tree import nodes, tree

ROOT = tree(parser())


@pytest.mark.parametrize("shell", list(SHELLS))
def test_every_command_and_option_is_completed(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    for node in nodes(ROOT):
        for child in node.below:
            assert child.path[-1] in said
        for word in node.words:
            for name in word.names:
                assert (name in said) or (f"-l {name[2:]}" in said)
            for choice in word.choices:
                assert choice in said
    program = shutil.which(shell)
    if program is None:
        return  # nobody to ask whether it can be read
    subprocess.run([program, "-n"], input=said.encode(), check=True)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (["bigbrotr", "d"], {"demo", "doctor", "db"}),
        (["bigbrotr", "db", "u"], {"url"}),
        (["bigbrotr", "db", "--profile", ""], {"full", "lite"}),
        (["bigbrotr", "status", "--so"], {"--sort"}),
        (["bigbrotr", "status", "--sort", "fail"], {"failures"}),
        (["bigbrotr", "completion", ""], {"bash", "zsh", "fish", "--help", "-h"}),
    ],
)
def test_bash_completes(line: list[str], wanted: set[str]) -> None:
    program = shutil.which("bash")
    if program is None:
        pytest.skip("no bash")
    words = " ".join(f"'{word}'" for word in line)
    script = (
        f"{SHELLS['bash'](ROOT)}\nCOMP_WORDS=({words}); COMP_CWORD={len(line) - 1}\n"
        '_bigbrotr 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([program, "-c", script], capture_output=True, check=True)
    assert set(done.stdout.decode().split()) == wanted


def test_the_manual_has_everything_and_no_faults() -> None:
    text = manual(ROOT, EXIT_CODES)
    plain = text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")
    for node in nodes(ROOT):
        if node.path and not node.below:
            assert f"bigbrotr {' '.join(node.path)}" in plain
        for word in node.words:
            for name in set(word.names) - {"-h", "--help", "--version"}:
                assert name in plain
    assert ".B 6\na service failed too often" in text
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff")
    done = subprocess.run(
        [groff, "-ww", "-man", "-Tutf8", "-z"], input=text.encode(), capture_output=True, check=True
    )
    assert done.stderr == b""
