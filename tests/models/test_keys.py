"""Keys: where they are found, what they sign, and that nothing ever shows them."""

import copy
import hashlib
import json
import pickle
import traceback
from pathlib import Path

import coincurve
import nostr_sdk
import pytest

from bigbrotr.errors import ConfigError
from bigbrotr.models.keys import Keys
from bigbrotr.secret import read_secret

SECRET = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"  # NIP-19's example
PUBLIC = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"
NPUB = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"


@pytest.mark.parametrize("secret", [SECRET, SECRET.upper(), NSEC, NSEC.upper()])
def test_hex_and_nsec(secret: str) -> None:
    keys = Keys(secret)
    assert (keys.public_key, keys.npub) == (PUBLIC, NPUB)


@pytest.mark.parametrize(
    ("secret", "hint"),
    [
        ("", "expected"),
        ("correct horse battery staple", "expected"),
        (SECRET[:-1], "expected"),
        (SECRET + "0", "expected"),
        (NSEC[:-1] + "x", "expected"),
        ("\ud800" * 64, "expected"),
        ("0" * 64, "out of range"),
        ("f" * 64, "out of range"),
        (NPUB, "public"),
        (
            "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw",
            "encry",
        ),
    ],
)
def test_malformed_secrets_are_refused_unseen(secret: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint) as caught:
        Keys(secret)
    with pytest.raises(ConfigError, match=hint) as clear:
        Keys.from_env("PRIVATE_KEY", {"PRIVATE_KEY": secret or "x"})
    for error in (caught.value, clear.value):
        shown = "".join(traceback.format_exception(error))
        assert not secret or secret not in shown


def test_from_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIVATE_KEY", raising=False)
    monkeypatch.delenv("PRIVATE_KEY_FILE", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert Keys.from_env("PRIVATE_KEY") is None
    monkeypatch.setenv("PRIVATE_KEY", f" {NSEC}\n")
    keys = Keys.from_env("PRIVATE_KEY")
    assert keys is not None
    assert keys.public_key == PUBLIC


def test_from_a_file_and_from_credentials(tmp_path: Path) -> None:
    file = tmp_path / "private_key"
    file.write_text(f"{SECRET}\n")
    for environ in (
        {"KEY": "", "KEY_FILE": str(file)},
        {"PRIVATE_KEY": " ", "CREDENTIALS_DIRECTORY": str(tmp_path)},
    ):
        name = "KEY" if "KEY" in environ else "PRIVATE_KEY"
        keys = Keys.from_env(name, environ)
        assert keys is not None
        assert keys.npub == NPUB
    assert Keys.from_env("OTHER", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None


def test_the_variable_wins_over_the_file_over_the_credential(tmp_path: Path) -> None:
    (tmp_path / "DB_PASSWORD").write_text("from the credential")
    file = tmp_path / "file"
    file.write_text("from the file\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_secret("DB_PASSWORD", environ) == "from the credential"
    environ["DB_PASSWORD_FILE"] = str(file)
    assert read_secret("DB_PASSWORD", environ) == "from the file"
    environ["DB_PASSWORD"] = " from the variable "  # a password may begin with a blank
    assert read_secret("DB_PASSWORD", environ) == " from the variable "
    assert read_secret("DB_PASSWORD", {}) is None


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"x" * 5000])
def test_unusable_files_are_refused_unseen(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"key'.*PRIVATE_KEY") as caught:
        Keys.from_env("PRIVATE_KEY", {"PRIVATE_KEY_FILE": str(file)})
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize("path", ["missing", "", "nul\0"])
def test_unreadable_files_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="cannot read PRIVATE_KEY from"):
        Keys.from_env("PRIVATE_KEY", {"PRIVATE_KEY_FILE": f"{tmp_path}/{path}"})


def test_nothing_shows_the_secret() -> None:
    keys = Keys(SECRET)
    shown = [repr(keys), str(keys), f"{keys}", f"{keys!r:>200}", f"{[keys]}", f"{dir(keys)}"]
    shown += [repr(getattr(keys, name)) for name in dir(keys)]
    for text in shown:
        assert SECRET not in text.lower()
        assert NSEC not in text.lower()
    with pytest.raises(TypeError):
        vars(keys)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(keys, protocol)
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(keys)
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps(keys)


def test_immutable_and_equal_by_public_key() -> None:
    keys = Keys(SECRET)
    with pytest.raises(AttributeError, match="immutable"):
        keys.public_key = "0" * 64
    with pytest.raises(AttributeError, match="immutable"):
        del keys.npub
    assert keys == Keys(NSEC)
    assert len({keys, Keys(NSEC)}) == 1
    assert keys != Keys.generate()


@pytest.mark.parametrize("message", [hashlib.sha256(b"x").digest(), b"", b"x" * 100])
def test_signs_messages(message: bytes) -> None:
    signature = Keys(SECRET).sign(message)
    assert len(signature) == 64
    assert coincurve.PublicKeyXOnly(bytes.fromhex(PUBLIC)).verify(signature, message)


@pytest.mark.parametrize(
    ("kind", "content", "tags", "created_at"),
    [
        (1, "", [], 0),
        (30166, 'line\n"quoted" \\ ä 💩 \u2028', [("d", "wss://relay.example.com"), ("t", "")], 5),
        (65535, "x", [["p", PUBLIC], ["p", PUBLIC], ["e", "no id"], ["d"]], 2**40),
    ],
)
def test_signs_events(
    kind: int, content: str, tags: list[tuple[str, ...]], created_at: int
) -> None:
    text = Keys(SECRET).sign_event(kind, content, tags, created_at)
    event = json.loads(text)
    assert (event["kind"], event["content"], event["created_at"]) == (kind, content, created_at)
    assert event["tags"] == [list(tag) for tag in tags]
    assert event["pubkey"] == PUBLIC
    unsigned = [0, PUBLIC, created_at, kind, event["tags"], content]
    encoded = json.dumps(unsigned, ensure_ascii=False, separators=(",", ":")).encode()
    assert event["id"] == hashlib.sha256(encoded).hexdigest()
    public = coincurve.PublicKeyXOnly(bytes.fromhex(PUBLIC))
    assert public.verify(bytes.fromhex(event["sig"]), bytes.fromhex(event["id"]))
    assert nostr_sdk.Event.from_json(text).verify()


@pytest.mark.parametrize(
    ("kind", "content", "tags", "created_at"),
    [
        (65536, "", [], 0),
        (-1, "", [], 0),
        (1, "\ud800", [], 0),
        (1, "", [["\ud800"]], 0),
        (1, "", [[]], 0),
        (1, "", [], -1),
        (1, "", [], 2**64),
    ],
)
def test_what_cannot_be_an_event_is_refused(
    kind: int, content: str, tags: list[list[str]], created_at: int
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Keys(SECRET).sign_event(kind, content, tags, created_at)


def test_a_message_is_for_its_reader_alone() -> None:
    reader = nostr_sdk.Keys.generate()
    keys = Keys(SECRET)
    wraps = [keys.wrap_message(reader.public_key().to_bech32(), "hello", 7) for _ in range(2)]
    opened = []
    for text in wraps:
        wrap = nostr_sdk.Event.from_json(text)
        assert wrap.verify()
        assert wrap.author().to_hex() != keys.public_key
        assert "hello" not in text
        gift = nostr_sdk.UnwrappedGift.from_gift_wrap(reader, wrap)
        assert gift.sender().to_hex() == keys.public_key
        rumor = gift.rumor()
        assert (rumor.kind().as_u16(), rumor.content()) == (14, "hello")
        assert rumor.created_at().as_secs() == 7
        opened.append(rumor.as_json())
    assert opened[0] == opened[1]  # by which readers know that it is the same
    with pytest.raises(ValueError, match="cannot wrap"):
        keys.wrap_message("npub1x", "hello", 7)
