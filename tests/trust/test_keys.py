"""Keys: what their files are, who may read them, and that none is overwritten."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast.errors import InputError, UsageError
from edgeplast.trust.keys import PrivateKey, keygen, read_private, read_public
from edgeplast.trust.trusting import TrustedKeys

pytest.importorskip("nacl", reason="signatures need edgeplast[signing]")

posix = pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")


class TestAVector:
    """Of RFC 8032, 7.1: test 2."""

    SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    SIGNATURE = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )

    def test_signs_and_verifies(self) -> None:
        key = PrivateKey.of(self.SEED)
        assert key.public.raw == self.PUBLIC
        assert key.sign(b"\x72") == self.SIGNATURE and key.public.verifies(b"\x72", self.SIGNATURE)

    @given(st.integers(0, 511))
    @settings(deadline=None, max_examples=40)
    def test_one_other_bit_is_no_signature(self, bit: int) -> None:
        changed = bytearray(self.SIGNATURE)
        changed[bit // 8] ^= 1 << bit % 8
        key = PrivateKey.of(self.SEED).public
        assert not key.verifies(b"\x72", bytes(changed)) and not key.verifies(b"\x73", self.SIGNATURE)


class TestKeygen:
    def test_writes_a_pair(self, tmp_path: Path) -> None:
        public = keygen(tmp_path / "new" / "site")
        assert read_private(tmp_path / "new" / "site.key").public == public
        assert read_public(tmp_path / "new" / "site.pub") == (public,)
        assert public.id in str(public) and len(public.id) == 16

    @posix
    def test_whose_secret_its_owner_alone_may_read_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            keygen(tmp_path / "site")
        finally:
            os.umask(before)
        assert (tmp_path / "site.key").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "site.pub").stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("there", ["site.key", "site.pub"])
    def test_overwrites_none(self, tmp_path: Path, there: str) -> None:
        (tmp_path / there).write_text("mine")
        for name in ("site", "site.key", "site.pub"):
            with pytest.raises(UsageError, match=rf"{there} exists already, and a key is never overwritten"):
                keygen(tmp_path / name)
        assert (tmp_path / there).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1

    @posix
    def test_follows_no_link(self, tmp_path: Path) -> None:
        (tmp_path / "site.key").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match="never overwritten"):
            keygen(tmp_path / "site")
        assert not (tmp_path / "elsewhere").exists()

    def test_the_secret_is_not_shown(self, site: PrivateKey) -> None:
        for shown in (repr(site), str(site)):
            assert site.seed.hex() not in shown and repr(site.seed)[2:-1] not in shown


class TestReading:
    @posix
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
    def test_a_private_key_that_others_may_touch_is_refused(self, tmp_path: Path, site: PrivateKey, mode: int) -> None:
        (tmp_path / "site.key").chmod(mode)
        with pytest.raises(UsageError, match=rf"mode {mode:o}.*chmod 600 .*site\.key"):
            read_private(tmp_path / "site.key")

    def test_a_public_key_does_not_sign(self, keys: Path) -> None:
        (keys / "site.pub").chmod(0o600)
        with pytest.raises(InputError, match="It holds a public key, which verifies; the other half signs"):
            read_private(keys / "site.pub")

    def test_a_private_key_is_not_what_a_device_trusts(self, tmp_path: Path, site: PrivateKey) -> None:
        with pytest.raises(InputError, match=r"site\.key holds a private key.*trust its public half"):
            TrustedKeys.read(tmp_path / "site.key")

    @posix
    def test_keys_that_anyone_may_exchange_are_refused(self, keys: Path) -> None:
        for place in (keys, keys / "site.pub"):
            mode = place.stat().st_mode
            place.chmod(mode | 0o002)
            with pytest.raises(InputError, match=r"Anyone may write .* Change that: chmod o-w"):
                TrustedKeys.read(keys)
            place.chmod(mode)
        TrustedKeys.read(keys)

    def test_a_folder_without_keys_trusts_nobody(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "notes.txt").write_text("none")
        with pytest.raises(InputError, match=r"There is no public key in .*edgeplast keygen NAME"):
            TrustedKeys.read(tmp_path / "empty")

    def test_one_bad_file_among_good_ones_is_said_not_passed_over(self, keys: Path) -> None:
        (keys / "broken.pub").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
        with pytest.raises(InputError, match=r"broken\.pub is no public Ed25519 key in PEM"):
            TrustedKeys.read(keys)

    def test_several_keys_in_one_file(self, tmp_path: Path, site: PrivateKey) -> None:
        other = keygen(tmp_path / "other")
        both = tmp_path / "both.pem"
        both.write_bytes((tmp_path / "keys" / "site.pub").read_bytes() + (tmp_path / "other.pub").read_bytes())
        assert TrustedKeys.read(both).keys == (site.public, other)

    @given(st.binary(max_size=300))
    @settings(deadline=None, max_examples=50)
    def test_anything_else_is_an_error_of_ours(self, data: bytes) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            for file in (Path(folder) / "x.pub", Path(folder) / "x.key"):
                file.write_bytes(data)
                file.chmod(0o600)
                with pytest.raises(InputError, match=r"no (public|private) Ed25519 key"):
                    read_public(file) if file.suffix == ".pub" else read_private(file)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"Cannot read the key .*nowhere\.pub: No such file"):
            TrustedKeys.read(tmp_path / "nowhere.pub")


@openssl
class TestOpenSSL:
    """Its keys are ours, and ours its."""

    def test_makes_keys_that_sign_here(self, tmp_path: Path) -> None:
        private, public = tmp_path / "o.key", tmp_path / "o.pub"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(private)], check=True)
        subprocess.run(["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)], check=True)
        private.chmod(0o600)
        assert read_public(public) == (read_private(private).public,)

    def test_verifies_what_was_signed_here(self, tmp_path: Path, site: PrivateKey, keys: Path) -> None:
        (tmp_path / "message").write_bytes(b"hello")
        (tmp_path / "signature").write_bytes(site.sign(b"hello"))
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keys / "site.pub"), "-rawin"]
        command += ["-in", str(tmp_path / "message"), "-sigfile", str(tmp_path / "signature")]
        assert "Verified Successfully" in subprocess.run(command, capture_output=True, text=True).stdout
