"""Each form of the Cython modules' SHA-256 has the results of the standard library."""

import hashlib
import random
import shutil
import struct
import subprocess
from subprocess import PIPE

import pytest

from tests.conftest import REPOSITORY, require

PROGRAM = REPOSITORY / "tests" / "lib" / "sha256_forms.c"
MISSING_FORM = 3
#: name: (compiler with options, command that runs its programs)
COMPILERS = {
    "cc": (["cc", "-O3"], []),
    "sanitized": (["gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover"], []),
    "clang": (["clang", "-O3"], []),
    "aarch64": (["aarch64-linux-gnu-gcc", "-O3", "-static"], ["qemu-aarch64-static"]),
}
#: forms that each must have; the others depend on this machine's processor
CERTAIN = {"aarch64": {"portable", "armv8"}}
FORMS = ("portable", "shani", "armv8")


@pytest.fixture(scope="module", params=COMPILERS)
def program(request, tmp_path_factory):
    """The command of the program, as each compiler that is there makes it, and forms it must have."""
    name = request.param
    compiler, runner = COMPILERS[name]
    if name == "cc":
        require(shutil.which("cc"), "there is no C compiler")
    for tool in (compiler[0], *runner):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    binary = tmp_path_factory.mktemp(name) / "program"
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-std=c11"]
    include = f"-I{REPOSITORY / 'electrumx' / 'lib'}"
    command = [*compiler, *warnings, include, PROGRAM, "-o", binary]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    if name == "sanitized" and "cannot find" in done.stderr:
        pytest.skip("the sanitizers' libraries are not installed")
    assert done.returncode == 0, done.stderr
    return [*runner, binary], CERTAIN.get(name, {"portable"})


def messages():
    """Messages and the sizes of the parts in which they are hashed; 0 for one call."""
    chance = random.Random(256)
    # Around the ends of the first blocks, where the padding needs one block more
    lengths = [*range(140), *(chance.randrange(140, 5_000) for _ in range(100))]
    return [
        (chance.randbytes(length), part)
        for length in lengths
        for part in (0, 1, 7, 63, 64, 65, 200)
    ]


def hashes(program, form, made, *more):
    """Return the hashes that the program prints for messages, joined; skip if the form is missing."""
    command, certain = program
    text = b"".join(struct.pack("<IH", len(message), part) + message for message, part in made)
    done = subprocess.run([*command, form, *more], input=text, capture_output=True, timeout=400)
    if done.returncode == MISSING_FORM and form not in certain:
        pytest.skip(f"this processor does not have the form {form}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_hashes_of_the_standard_library(program, form):
    made = messages()
    expected = b"".join(hashlib.sha256(message).digest() for message, _ in made)
    assert hashes(program, form, made) == expected


@pytest.mark.parametrize("form", FORMS)
def test_two_messages_hashed_together_have_the_hashes_of_each(program, form):
    """Of any two lengths, in one to three parts of any lengths, none included."""
    made, chance = messages(), random.Random(2)
    # Pairs of short messages in one part have a way of their own.
    made += [(chance.randbytes(chance.randrange(56)), 100) for _ in range(500)]
    for n in range(5):
        if n:
            chance.shuffle(made)
        expected = b"".join(hashlib.sha256(message).digest() for message, _ in made)
        assert len(made) % 2 == 0
        assert hashes(program, form, made, "two") == expected


def test_the_bits_of_a_long_message_are_counted_in_64_bits(program):
    """512 MiB are the first length of which the bits do not fit into 32."""
    command, _certain = program
    if len(command) > 1 or command[0].parent.name.startswith("sanitized"):
        pytest.skip("slow in an emulator or under sanitizers, and the same in every form")
    length, part = 1 << 29, 1 << 15
    message = bytes(1 << 20)
    expected = hashlib.sha256()
    has_shani = subprocess.run([*command, "shani"], input=b"").returncode != MISSING_FORM
    form = "shani" if has_shani else "portable"

    with subprocess.Popen([*command, form], stdin=PIPE, stdout=PIPE) as process:
        process.stdin.write(struct.pack("<IH", length, part))
        for _ in range(length // len(message)):
            process.stdin.write(message)
            expected.update(message)
        digest, _ = process.communicate(timeout=400)

    assert digest == expected.digest()
