#!/usr/bin/env bash
# model-signing 1.1.1 (the newest) with the sigstore 4.5.1 that it resolves to: a plain installation
# cannot be imported. It needs pyOpenSSL, which it does not declare and sigstore no longer brings.
# With pyOpenSSL beside it, its command line and its Python API differ over a signature that lies
# inside the signed directory, as it does where a model is handed on as one folder: the command
# leaves the signature out by itself, the API counts it as a file that was added.
#
# Seen: ModuleNotFoundError: No module named 'OpenSSL'; then, of an adapter's directory,
#   command: sign and verify with model.sig inside: accepted
#   API: "Signature mismatch: ["Extra files found in model ...: model.sig"]"; accepted with
#   set_ignored_paths on both sides.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install model-signing==1.1.1 sigstore==4.5.1
if error=$("$folder/venv/bin/python" -c 'import model_signing' 2>&1); then
  echo "it can be imported"
  exit 1
fi
grep -q "No module named 'OpenSSL'" <<<"$error"
"$folder/venv/bin/pip" -q install pyOpenSSL==26.4.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying

adapter = Path("adapter")
adapter.mkdir()
(adapter / "adapter_model.safetensors").write_bytes(bytes(100))
(adapter / "adapter_config.json").write_text("{}")
key = ec.generate_private_key(ec.SECP256R1())
Path("private.pem").write_bytes(
    key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
)
Path("public.pem").write_bytes(
    key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
)
signature = adapter / "model.sig"


def command(*arguments):
    tool = Path(sys.executable).with_name("model_signing")
    subprocess.run([tool, *arguments, "--signature", signature], check=True)


def through_api(ignored):
    signature.unlink()
    sides = [
        signing.Config().use_elliptic_key_signer(private_key="private.pem"),
        verifying.Config().use_elliptic_key_verifier(public_key="public.pem"),
    ]
    if ignored:
        for side in sides:
            side.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig"]))
    sides[0].sign(adapter, signature)
    try:
        sides[1].verify(adapter, signature)
    except ValueError as error:
        return str(error)
    return "accepted"


command("sign", "key", adapter, "--private_key", "private.pem")
command("verify", "key", adapter, "--public_key", "public.pem")
plain, ignoring = through_api(ignored=False), through_api(ignored=True)
print("API:", plain)
print("API, the signature ignored:", ignoring)
assert "Extra files found" in plain and "model.sig" in plain, plain
assert ignoring == "accepted", ignoring
PYTHON
