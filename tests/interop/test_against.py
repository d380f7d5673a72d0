"""`check --against` a git revision, a directory and the running gateway; its formats, exit status and ignore list."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gateway.mapping.changes.revision import checkout
from tests.kit.command import outcome
from tests.kit.gateway import TOY_IDL, TOY_MAPPING, Folder, gateway_process

NEW = TOY_MAPPING.replace("  label: {member: Label}\n", "").replace(
    "params: [text]", "params: [{name: text, default: x}]"
)


def check(*words: str | Path) -> tuple[int, str, str]:
    return outcome("check", *words)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The new and the old mapping files, as directories."""
    made = tmp_path / "new", tmp_path / "old"
    for folder, mapping in zip(made, (NEW, TOY_MAPPING), strict=True):
        folder.mkdir()
        (folder / "toy.yaml").write_text(mapping)
        (folder / "toy.xml").write_text(TOY_IDL)
    return made


def git(folder: Path, *words: str, given: bytes = b"") -> bytes:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, input=given)
    return done.stdout if words[0] == "cat-file" else done.stdout.strip()


def committed(folder: Path) -> None:
    """Make the files of a folder the only commit of a repository."""
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        git(folder, *words)


def test_a_directory(folders: tuple[Path, Path]) -> None:
    new, old = folders
    code, out, _ = check(new, "--against", old)
    assert code == 6
    assert out.splitlines() == [
        f"{old}/toy.yaml:10: toy/label: wire METHOD_GONE: not mapped any more at rpc /RPC2, rpc /jsonrpc",
        f"{new}/toy.yaml:9: toy/echo: compatible PARAMETER_BECAME_OPTIONAL: parameter 'text' has the default 'x'",
        "1 change that breaks wire; 1 other",
    ]
    assert check(old, "--against", old)[:2] == (0, "nothing breaks\n")


def test_a_git_revision_with_idl_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work tree stays as it is, and places are those of the work tree."""
    for folder in ("deploy/mappings", "idl"):
        (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / "deploy/mappings/toy.yaml"
    file.write_text(TOY_MAPPING.replace("idl: toy.xml", "idl: ../../idl/toy.xml"))
    (tmp_path / "idl/toy.xml").write_text(TOY_IDL)
    committed(tmp_path)
    git(tmp_path, "tag", "deployed")
    file.write_text(NEW.replace("idl: toy.xml", "idl: ../../idl/toy.xml"))
    (tmp_path / "idl/toy.xml").write_text(TOY_IDL.replace('"same" type="s"', '"same" type="as"'))
    monkeypatch.chdir(tmp_path)
    code, out, _ = check("deploy/mappings", "--against", "deployed", "--format", "json")
    found = json.loads(out)
    assert code == 6
    assert [(each["rule"], each["subject"], each["file"]) for each in found["changes"]] == [
        ("PARAMETER_BECAME_OPTIONAL", "toy/echo", "deploy/mappings/toy.yaml"),
        ("RESULT_TYPE_CHANGED", "toy/echo", "deploy/mappings/toy.yaml"),
        ("SIGNATURE_CHANGED", "toy/echo", "deploy/mappings/toy.yaml"),
        ("METHOD_GONE", "toy/label", "deploy/mappings/toy.yaml"),
    ]
    assert (found["breaking"], found["ignored"]) == (3, 0)
    assert check("deploy/mappings/toy.yaml", "--against", "HEAD~0")[0] == 6
    for none in ("nothing", "--all"):
        code, _, message = check("deploy/mappings", "--against", none)
        assert (code, f"'{none}' is neither a directory nor a commit of the repository" in message) == (2, True)
    git(tmp_path, "commit", "-qam", "two")
    assert check("deploy/mappings", "--against", "HEAD")[:2] == (0, "nothing breaks\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/toy.yaml").write_text(file.read_text().replace("../../idl", "../idl"))
    code, _, message = check("more", "--against", "HEAD")
    assert (code, "HEAD has no more" in message) == (2, True)


def test_levels_and_the_ignore_list_decide_the_exit_status(folders: tuple[Path, Path], tmp_path: Path) -> None:
    new, old = folders
    assert check(new, "--against", old, "--level", "evidence", "--level", "dbus")[0] == 0
    assert check(new, "--against", old, "--level", "compatible")[0] == 6
    code, out, notes = check(new, "--against", old, "--ignore", "METHOD_GONE toy/label", "--ignore", "ALIAS_GONE")
    assert (code, notes) == (0, "note: nothing is ignored by 'ALIAS_GONE *'\n")
    assert out.splitlines()[-1] == "nothing breaks; 1 other; 1 ignored"
    listed = tmp_path / "ignored"
    listed.write_text("# agreed with everybody\nMETHOD_GONE label   # nobody calls it\n\n")
    assert check(new, "--against", old, "--ignore-file", listed)[0] == 0


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../etc/hostname"])
def test_a_link_out_of_the_repository_is_not_followed(tmp_path: Path, target: str) -> None:
    folder = tmp_path / ":(top)"  # a name that git has a meaning for
    folder.mkdir()
    (folder / "toy.yaml").write_text(TOY_MAPPING)
    (folder / "toy.xml").write_text(TOY_IDL)
    committed(tmp_path)
    assert check(folder, "--against", "HEAD")[:2] == (0, "nothing breaks\n")
    (folder / "other.yaml").symlink_to(target)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "two")
    (folder / "other.yaml").unlink()
    code, out, message = check(folder, "--against", "HEAD")
    assert (code, out) == (2, "")
    assert "HEAD cannot be extracted: '" in message


def test_a_hostile_commit_writes_nothing_outside_of_the_extracted_files(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its tree has one name twice: a link that leads out, and a directory. No clone refuses to fetch such a commit."""
    new, outside = folders[0], tmp_path / "outside"
    outside.mkdir()
    committed(new)
    link = git(new, "hash-object", "-w", "--stdin", given=bytes(outside))
    file = git(new, "hash-object", "-w", "--stdin", given=b"<node/>")
    inner = git(new, "mktree", given=b"100644 blob %b\tfound.xml\n" % file)
    raw = b"120000 a.xml\0%b40000 a.xml\0%b" % (bytes.fromhex(link.decode()), bytes.fromhex(inner.decode()))
    raw += git(new, "cat-file", "tree", "HEAD^{tree}")
    tree = git(new, "hash-object", "-t", "tree", "-w", "--stdin", "--literally", given=raw)
    commit = git(new, "commit-tree", tree.decode(), "-m", "two").decode()
    code, out, message = check(new, "--against", commit)
    assert [*outside.iterdir()] == []
    assert (code, out) == (2, "")
    assert f"{commit} cannot be extracted: " in message


def test_attributes_of_git_change_nothing_of_a_revision(folders: tuple[Path, Path]) -> None:
    """`git archive` would leave out the file, and the text of the other one would be another."""
    new, _ = folders
    (new / "other.yaml").write_text(TOY_MAPPING.replace("service: toy", "service: other # $Format:%H$"))
    (new / ".gitattributes").write_text("toy.yaml export-ignore\nother.yaml export-subst\n")
    committed(new)
    before = {path: path.read_bytes() for path in (new / ".git").rglob("*") if path.is_file()}
    with checkout("HEAD", [new]) as extracted:
        assert all((extracted.root / file.name).read_bytes() == file.read_bytes() for file in new.glob("*.*ml"))
    assert {path: path.read_bytes() for path in (new / ".git").rglob("*") if path.is_file()} == before


ALONE = " belongs to --against: expected --against too"


def test_bad_options_are_refused(folders: tuple[Path, Path]) -> None:
    new, old = folders
    against = ("--against", old)
    for words, expected in (
        (("--against", ""), "--against: expected `live`, a directory, a file or a commit, got an empty text"),
        ((*against, "--level", "high"), "--level: expected one of wire, source, dbus, access, evidence, compatible"),
        ((*against, "--ignore", "NOTHING"), "--ignore: unknown rule 'NOTHING'"),
        ((*against, "--ignore-file", "/none"), "--ignore-file: [Errno 2] No such file or directory: '/none'"),
        ((*against, "--format", "xml"), "--format: expected one of text, json, sarif, github, got 'xml'"),
        (("--format", "sarif"), "--format" + ALONE),
        (("--level", "foo"), "--level" + ALONE),
        (("--ignore", "x"), "--ignore" + ALONE),
        (("--ignore-file", "x"), "--ignore-file" + ALONE),
        (("--strict",), "--strict belongs to --live: expected --live too"),
    ):
        code, out, message = check(new, *words)
        assert (code, out, expected in message) == (2, "", True), message


def test_problems_of_either_side_come_first(folders: tuple[Path, Path]) -> None:
    new, old = folders
    (old / "toy.yaml").write_text(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    code, _, message = check(new, "--against", old)
    assert (code, "its mapping files have problems of their own: " in message, "Ecko" in message) == (1, True, True)
    code, out, message = check(old, "--against", new)
    assert (code, out, "Ecko" in message) == (4, "", True)


def test_sarif_is_valid_and_github_annotations_are_escaped(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = check("new", "--against", "old", "--format", "sarif")
    document = json.loads(out)
    assert (code, document["version"]) == (6, "2.1.0")
    (run,) = document["runs"]
    assert run["tool"]["driver"].keys() >= {"name", "version", "rules"}
    rules = [each["id"] for each in run["tool"]["driver"]["rules"]]
    assert rules == ["METHOD_GONE", "PARAMETER_BECAME_OPTIONAL"]
    assert all(rules[each["ruleIndex"]] == each["ruleId"] and each["message"]["text"] for each in run["results"])
    by_rule = {each["ruleId"]: each for each in run["results"]}
    assert [by_rule[rule]["level"] for rule in sorted(by_rule)] == ["error", "note"]
    assert by_rule["PARAMETER_BECAME_OPTIONAL"]["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "new/toy.yaml"},
        "region": {"startLine": 9},
    }
    code, out, _ = check("new", "--against", "old", "--format", "github")
    assert code == 6
    assert out.splitlines() == [
        (
            "::notice file=new/toy.yaml,line=9,title=compatible PARAMETER_BECAME_OPTIONAL"
            "::toy/echo: parameter 'text' has the default 'x'"
        ),
        (
            "::error file=old/toy.yaml,line=10,title=wire METHOD_GONE"
            "::toy/label: not mapped any more at rpc /RPC2, rpc /jsonrpc"
        ),
    ]


@pytest.mark.bus
def test_what_the_running_gateway_serves(tmp_path: Path, empty_bus: str) -> None:
    """Files that are not loaded yet are compared with those that are."""
    folder = Folder(tmp_path)
    folder.buses({"example": (empty_bus, "org.example.*")})
    with gateway_process(folder.config) as process:
        process.wait_for("ready")
        words = ("--config", folder.config, "--socket", folder.control, "--against", "live")
        assert check(*words)[:2] == (0, "nothing breaks\n")
        folder.mapping(NEW)
        code, out, _ = check(*words)
        assert (code, "toy/label: wire METHOD_GONE" in out) == (6, True)
    assert check(*words)[0] == 69
