"""Tests of the typed readers of environment variables."""

import pytest

from electrumx.lib.env_base import EnvBase
from electrumx.lib.errors import OperatorError

NAME = "TEST_ENV_BASE_VARIABLE"


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in (NAME, "ALLOW_ROOT", "EVENT_LOOP_POLICY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def set_to(monkeypatch):
    return lambda value: monkeypatch.setenv(NAME, value)


def message_of(call, *args, **kwargs):
    with pytest.raises(EnvBase.Error) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_errors_are_the_operators():
    assert issubclass(EnvBase.Error, OperatorError)


def test_text_is_taken_as_it_is(set_to):
    assert EnvBase.default(NAME, "d") == "d"
    assert EnvBase.default(NAME, None) is None
    set_to("  x ")
    assert EnvBase.default(NAME, "d") == "  x "
    set_to("")
    assert EnvBase.default(NAME, "d") == ""


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("0", True), ("no", True), ("", False), ("  ", False)]
)
def test_a_boolean_is_true_unless_blank(set_to, value, expected):
    set_to(value)
    assert EnvBase.boolean(NAME, not expected) is expected


def test_an_unset_boolean_is_the_default():
    assert EnvBase.boolean(NAME, True) is True
    assert EnvBase.boolean(NAME, False) is False


def test_a_required_variable_may_be_empty_but_not_unset(set_to):
    assert message_of(EnvBase.required, NAME) == f"required envvar {NAME} not set"
    assert message_of(EnvBase.required, NAME, "do so") == f"required envvar {NAME} not set: do so"
    set_to("")
    assert EnvBase.required(NAME) == ""


@pytest.mark.parametrize(("value", "expected"), [("12", 12), (" 1_000 ", 1000), ("-3", -3)])
def test_an_integer_has_the_form_of_pythons(set_to, value, expected):
    set_to(value)
    assert EnvBase.integer(NAME, 7) == expected


@pytest.mark.parametrize("value", ["", "1.5", "abc", "1\n2", "9" * 5000])
def test_what_is_no_integer_is_refused(set_to, value):
    set_to(value)
    start = f"cannot convert envvar {NAME} value "
    text = message_of(EnvBase.integer, NAME, 7)
    assert text.startswith(start)
    assert " to an integer: " in text


def test_an_unset_integer_is_the_default_even_out_of_bounds():
    assert EnvBase.integer(NAME, None) is None
    assert EnvBase.integer(NAME, 5, minimum=6) == 5


def test_an_integer_out_of_bounds_is_refused(set_to):
    set_to("5")
    assert EnvBase.integer(NAME, 7, minimum=5, maximum=5) == 5
    assert message_of(EnvBase.integer, NAME, 7, minimum=6) == (
        f"envvar {NAME} value 5 is too small: set 6 or more"
    )
    assert message_of(EnvBase.integer, NAME, 7, maximum=4) == (
        f"envvar {NAME} value 5 is too big: set 4 or less"
    )


def test_a_custom_variable_is_parsed(set_to):
    assert EnvBase.custom(NAME, "d", int) == "d"
    set_to("12")
    assert EnvBase.custom(NAME, None, int) == 12
    set_to("x\ny")
    text = message_of(EnvBase.custom, NAME, None, int)
    assert text.startswith(f"cannot parse envvar {NAME} value x\\ny")


def test_obsolete_variables_are_named_unless_empty(monkeypatch):
    monkeypatch.setenv(NAME, "")
    EnvBase.obsolete([NAME, NAME + "2"])
    monkeypatch.setenv(NAME, "1")
    monkeypatch.setenv(NAME + "2", "0")
    text = message_of(EnvBase.obsolete, [NAME + "2", NAME])
    assert text.startswith(f"remove obsolete environment variables ['{NAME}2', '{NAME}']")


def test_the_base_reads_root_and_loop(monkeypatch):
    monkeypatch.setenv("EVENT_LOOP_POLICY", "asyncio")
    env = EnvBase()
    assert (env.allow_root, env.loop_policy) == (False, None)
    monkeypatch.setenv("ALLOW_ROOT", "1")
    assert EnvBase().allow_root is True


@pytest.mark.parametrize("value", [None, "uvloop"])
def test_uvloop_is_used_also_by_default(monkeypatch, value):
    uvloop = pytest.importorskip("uvloop")
    if value:
        monkeypatch.setenv("EVENT_LOOP_POLICY", value)
    policy = EnvBase().loop_policy
    loop = policy.new_event_loop()
    try:
        assert isinstance(loop, uvloop.Loop)
        assert str(policy) == "uvloop"
    finally:
        loop.close()


@pytest.mark.parametrize("value", ["", "foo", "UVLOOP"])
def test_another_loop_policy_is_refused(monkeypatch, value):
    monkeypatch.setenv("EVENT_LOOP_POLICY", value)
    assert message_of(EnvBase).startswith(f'unknown event loop policy "{value}"')


def test_a_missing_uvloop_is_explained_to_who_asks_for_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    assert EnvBase().loop_policy is None
    monkeypatch.setenv("EVENT_LOOP_POLICY", "uvloop")
    assert "not installed" in message_of(EnvBase)
