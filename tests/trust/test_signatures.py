"""A bundle is opened if a trusted key signed it as it is, and refused before anything is parsed if not."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgeplast
from edgeplast.bundle import MANIFEST, TRAINABLE, Bundle, Manifest
from edgeplast.errors import DamagedError, FallbackWarning, InputError, UntrustedError, UsageError
from edgeplast.stored_files import SIGNATURES, describe_file
from edgeplast.trust import signatures
from edgeplast.trust.keys import PrivateKey, keygen
from edgeplast.trust.signatures import Envelope, Mark, read_envelopes
from edgeplast.trust.signing import Signer, sign, verify
from edgeplast.trust.trusting import TrustedKeys

pytest.importorskip("nacl", reason="signatures need edgeplast[signing]")

NOON = datetime(2026, 6, 15, 12, tzinfo=timezone.utc)
DAY = 24 * 3600.0

KeyOf = Callable[[str], PrivateKey]


def trusting(keys: Path, at: float = NOON.timestamp()) -> TrustedKeys:
    return replace(TrustedKeys.read(keys), clock=lambda: at)


def signed(folder: Path, key: PrivateKey, days: float | None = None) -> Path:
    sign(folder, Signer(key, days, clock=NOON.timestamp))
    return folder


class ParsedError(Exception):
    """A parser has seen what nobody signed."""


@pytest.fixture
def unparsed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, parsing a manifest or hashing a file of a bundle fails the test."""

    def never(*_: Any, **__: Any) -> None:
        raise ParsedError

    def begin() -> None:
        monkeypatch.setattr(Manifest, "from_json", never)
        monkeypatch.setattr("edgeplast.bundle.fault_of", never)

    return begin


class TestRefused:
    """Before the manifest is parsed or a file of weights or graphs is opened."""

    def test_unsigned(self, copy: Path, keys: Path, unparsed: Callable[[], None]) -> None:
        unparsed()
        with pytest.raises(UntrustedError, match=r"not signed \(there is no signatures\.jsonl\).*edgeplast sign"):
            Bundle.open(copy, trusted=keys)

    def test_by_a_stranger(self, copy: Path, keys: Path, tmp_path: Path, unparsed: Callable[[], None]) -> None:
        stranger = keygen(tmp_path / "stranger")
        sign(copy, tmp_path / "stranger.key")
        unparsed()
        with pytest.raises(UntrustedError, match=rf"key {stranger.id}, which is not trusted.*site\.pub"):
            Bundle.open(copy, trusted=keys)

    def test_by_a_stranger_who_borrows_a_trusted_name(
        self, copy: Path, keys: Path, site: PrivateKey, tmp_path: Path, unparsed: Callable[[], None]
    ) -> None:
        keygen(tmp_path / "stranger")
        sign(copy, tmp_path / "stranger.key")
        line = read_envelopes(copy)[0]
        forged = Envelope(line.payload, line.payloadType, (Mark(site.public.id, line.signatures[0].sig),))
        (copy / SIGNATURES).write_bytes(msgspec.json.encode(forged))
        unparsed()
        with pytest.raises(UntrustedError, match=r"not one of site\.pub .*: it, or what it says, was changed"):
            Bundle.open(copy, trusted=keys)

    def test_a_changed_manifest(self, copy: Path, keys: Path, site: PrivateKey, unparsed: Callable[[], None]) -> None:
        """With hashes that fit: whoever changes weights changes those too."""
        signed(copy, site)
        with (copy / TRAINABLE).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")
        content = json.loads((copy / MANIFEST).read_text())
        stored = describe_file(copy / TRAINABLE)
        content["files"][TRAINABLE] = {"bytes": stored.bytes, "sha256": stored.sha256}
        (copy / MANIFEST).write_text(json.dumps(content))
        Bundle.open(copy)  # hashes alone do not notice
        unparsed()
        with pytest.raises(UntrustedError, match=r"bundle\.json is not what site\.pub .* signed on 2026-06-15"):
            Bundle.open(copy, trusted=keys)

    def test_changed_weights(self, copy: Path, keys: Path, site: PrivateKey) -> None:
        signed(copy, site)
        with (copy / TRAINABLE).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")
        with pytest.raises(DamagedError, match=r"trainable\.safetensors was changed"):
            Bundle.open(copy, trusted=keys)

    def test_the_signature_of_another_bundle(
        self, copy: Path, int8_bundle: Bundle, keys: Path, site: PrivateKey, tmp_path: Path
    ) -> None:
        other = signed(Path(shutil.copytree(int8_bundle.path, tmp_path / "other")), site)
        shutil.copy(other / SIGNATURES, copy)
        with pytest.raises(UntrustedError, match="or the signature is another bundle's"):
            Bundle.open(copy, trusted=keys)

    def test_of_another_purpose(
        self, copy: Path, keys: Path, site: PrivateKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same bytes, signed by the same key as something else, are no signature of a bundle."""
        signed(copy, site)
        line = read_envelopes(copy)[0]
        for kind in (line.payloadType, "application/vnd.in-toto+json"):
            with monkeypatch.context() as patch:
                patch.setattr(signatures, "_PAYLOAD_TYPE", "application/vnd.in-toto+json")
                sig = site.sign(line.signed)
            forged = Envelope(line.payload, kind, (Mark(site.public.id, sig),))
            (copy / SIGNATURES).write_bytes(msgspec.json.encode(forged))
            with pytest.raises(DamagedError, match=r"it, or what it says, was changed|a signature of another kind"):
                Bundle.open(copy, trusted=keys)

    def test_a_model_is_no_bundle(self, copy: Path, keys: Path, site: PrivateKey) -> None:
        Signer(site).sign_model(copy / MANIFEST, None, ())
        shutil.move(copy / f"{MANIFEST}.{SIGNATURES}", copy / SIGNATURES)
        with pytest.raises(UntrustedError, match="is one of a model, not of a bundle"):
            Bundle.open(copy, trusted=keys)

    @given(st.data())
    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    def test_whatever_one_byte_is_changed(self, copy: Path, keys: Path, site: PrivateKey, data: st.DataObject) -> None:
        """Of signature, statement or manifest: refused, or what is meant is the same and so is what is opened."""
        if not (copy / SIGNATURES).exists():
            signed(copy, site)
        trusted, whole = trusting(keys), Bundle.open(copy).manifest
        name = data.draw(st.sampled_from([SIGNATURES, MANIFEST]))
        before = (copy / name).read_bytes()
        changed = bytearray(before)
        changed[data.draw(st.integers(0, len(before) - 1))] ^= data.draw(st.integers(1, 255))
        (copy / name).write_bytes(bytes(changed))
        try:
            opened = Bundle.open(copy, trusted=trusted)
        except DamagedError:
            pass
        else:
            assert name == SIGNATURES and opened.manifest == whole
        finally:
            (copy / name).write_bytes(before)

    @given(st.binary(max_size=400))
    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    def test_anything_in_the_place_of_signatures(self, copy: Path, keys: Path, data: bytes) -> None:
        (copy / SIGNATURES).write_bytes(data)
        with pytest.raises(DamagedError):
            Bundle.open(copy, trusted=keys)

    def test_more_than_signatures_take(self, copy: Path, keys: Path) -> None:
        (copy / SIGNATURES).write_bytes(b"[" * (1 << 20))
        with pytest.raises(DamagedError, match=r"larger than signatures are"):
            Bundle.open(copy, trusted=keys)

    def test_a_link_in_their_place(self, copy: Path, keys: Path, site: PrivateKey, tmp_path: Path) -> None:
        signed(copy, site)
        shutil.move(copy / SIGNATURES, tmp_path / "elsewhere")
        (copy / SIGNATURES).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DamagedError, match="cannot be read"):
            Bundle.open(copy, trusted=keys)


class TestRotation:
    def test_a_folder_holds_the_old_key_and_the_new(
        self, copy: Path, keys: Path, site: PrivateKey, key_of: KeyOf
    ) -> None:
        signed(copy, site)
        new = key_of("new")
        assert Bundle.open(copy, trusted=trusting(keys)).signature.key == site.public
        sign(copy, Signer(new, clock=NOON.timestamp), force=True)
        assert Bundle.open(copy, trusted=trusting(keys)).signature.key == new.public
        (keys / "site.pub").unlink()
        assert Bundle.open(copy, trusted=trusting(keys)).signature.key == new.public

    def test_a_key_that_was_taken_away_counts_no_more(
        self, copy: Path, keys: Path, site: PrivateKey, key_of: KeyOf
    ) -> None:
        signed(copy, site)
        key_of("new")
        (keys / "site.pub").unlink()
        with pytest.raises(UntrustedError, match=r"not trusted.*new\.pub"):
            Bundle.open(copy, trusted=keys)


class TestRevocation:
    def test_of_a_key(self, copy: Path, keys: Path, site: PrivateKey) -> None:
        signed(copy, site)
        (keys / "revoked.txt").write_text(f"# lost laptops\n\n{site.public.id}  stolen in May\n")
        with pytest.raises(UntrustedError, match=r"site\.pub .*, which was revoked \(stolen in May\)"):
            Bundle.open(copy, trusted=keys)

    def test_of_one_bundle(self, copy: Path, keys: Path, site: PrivateKey) -> None:
        signed(copy, site)
        (keys / "revoked.txt").write_text(Bundle.open(copy).fingerprint)
        with pytest.raises(UntrustedError, match=r"was revoked\. Take a newer one"):
            Bundle.open(copy, trusted=keys)

    @pytest.mark.parametrize("line", ["site", "0bf23c1fe24bb00", "0BF23C1FE24BB00E", "../x"])
    def test_a_list_that_cannot_be_understood_is_no_reason_to_trust(
        self, copy: Path, keys: Path, site: PrivateKey, line: str
    ) -> None:
        signed(copy, site)
        (keys / "revoked.txt").write_text(f"\n{line}\n")
        with pytest.raises(InputError, match=r"Line 2 of .*revoked\.txt.*16 hex digits"):
            Bundle.open(copy, trusted=keys)

    def test_nor_is_one_that_anyone_may_write(self, keys: Path) -> None:
        (keys / "revoked.txt").write_text("")
        (keys / "revoked.txt").chmod(0o666)
        with pytest.raises(InputError, match=r"Anyone may write .*revoked\.txt"):
            TrustedKeys.read(keys)


class TestTime:
    """Signed on 2026-06-15 for 30 days."""

    def opened(self, folder: Path, keys: Path, at: float) -> Bundle:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return Bundle.open(folder, trusted=trusting(keys, at))

    def test_it_holds_until_it_expires(self, copy: Path, keys: Path, site: PrivateKey) -> None:
        signed(copy, site, days=30)
        statement = self.opened(copy, keys, NOON.timestamp() + 30 * DAY).signature.statement
        assert statement.signed_at == NOON and statement.expires_at == NOON + timedelta(days=30)

    def test_and_not_after(self, copy: Path, keys: Path, site: PrivateKey) -> None:
        signed(copy, site, days=30)
        with pytest.raises(UntrustedError, match=r"expired on 2026-07-15.*clock says 2026-07-16.*set the clock"):
            self.opened(copy, keys, NOON.timestamp() + 31 * DAY)

    @pytest.mark.parametrize("days", [None, 30])
    def test_a_device_without_a_clock_opens_it_and_says_what_it_cannot_tell(
        self, copy: Path, keys: Path, site: PrivateKey, days: float | None
    ) -> None:
        signed(copy, site, days)
        with pytest.warns(
            FallbackWarning, match=r"clock says 1970-01-01, which is before .* was signed \(2026-06-15\)"
        ) as said:
            Bundle.open(copy, trusted=trusting(keys, at=30.0))
        assert ("whether it has expired (2026-07-15) cannot be told" in str(said[0].message)) == (days is not None)

    def test_clocks_that_differ_by_hours_are_not_worth_a_word(self, copy: Path, keys: Path, site: PrivateKey) -> None:
        signed(copy, site, days=30)
        assert self.opened(copy, keys, NOON.timestamp() - DAY / 2).signature is not None

    def test_what_a_device_without_a_clock_signs_is_no_older_than_what_it_began_with(
        self, copy: Path, keys: Path, site: PrivateKey, tmp_path: Path
    ) -> None:
        parent = Bundle.open(signed(copy, site))
        made = tmp_path / "made"
        shutil.copytree(copy, made, ignore=shutil.ignore_patterns(SIGNATURES))
        Signer(site, clock=lambda: 5.0).sealing(parent)(made)
        own, before = (line.statement("it") for line in read_envelopes(made))
        assert own.signed_at == before.signed_at == NOON

    @pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), 1e9])
    def test_days_that_mean_nothing(self, site: PrivateKey, days: float) -> None:
        with pytest.raises(UsageError, match=r"valid for up to 36,525 days"):
            Signer(site, days)


class TestSigning:
    def test_a_damaged_bundle_is_not_signed(self, copy: Path, site: PrivateKey) -> None:
        (copy / TRAINABLE).write_bytes(b"x")
        with pytest.raises(DamagedError, match=r"trainable\.safetensors has 1 bytes"):
            sign(copy, site)
        assert not (copy / SIGNATURES).exists()

    def test_twice_only_by_force(self, copy: Path, site: PrivateKey) -> None:
        signed(copy, site)
        with pytest.raises(UsageError, match="signed already"):
            sign(copy, site)
        sign(copy, site, force=True)

    def test_does_not_change_the_bundle(self, copy: Path, site: PrivateKey) -> None:
        before = Bundle.open(copy)
        signed(copy, site)
        assert Bundle.open(copy).fingerprint == before.fingerprint

    def test_verify_tells_who_when_and_what(self, copy: Path, keys: Path, site: PrivateKey) -> None:
        found = verify(signed(copy, site, days=1), trusting(keys))
        assert found.signature.key == site.public and found.files == len(Bundle.open(copy).manifest.files) + 1
        assert found.fingerprint == Bundle.open(copy).fingerprint and found.report is None

    def test_the_public_names(self, copy: Path, tmp_path: Path) -> None:
        edgeplast.keygen(tmp_path / "k")
        edgeplast.sign(copy, tmp_path / "k.key")
        assert edgeplast.verify(copy, tmp_path / "k.pub").files > 4
        assert Bundle.open(copy, trusted=edgeplast.TrustedKeys.read(tmp_path / "k.pub")).signature is not None
