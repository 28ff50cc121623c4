import pytest

from electrumx.lib.enum import Enumeration, EnumError


@pytest.fixture
def colours():
    return Enumeration("Colours", ["RED", "GREEN", ("BLUE", 10), "BLACK"])


def test_values_count_on_from_the_last_one_given(colours):
    assert (colours.RED, colours.GREEN, colours.BLUE, colours.BLACK) == (0, 1, 10, 11)


def test_whatis_is_the_inverse_of_attribute_access(colours):
    assert colours.lookup == {"RED": 0, "GREEN": 1, "BLUE": 10, "BLACK": 11}
    for name, value in colours.lookup.items():
        assert name == colours.whatis(value) == colours.reverseLookup[value]


def test_missing_members_are_an_attribute_error_or_a_key_error(colours):
    with pytest.raises(AttributeError):
        colours.WHITE  # noqa: B018
    with pytest.raises(KeyError):
        colours.whatis(2)


@pytest.mark.parametrize(
    "items",
    [
        ["A", "A"],
        [("A", 1), ("B", 1)],
        ["A", ("B", 0)],
        [("A", "1")],
        [("A", 1, 2)],
        [5],
        [""],
        [(1, 1)],
    ],
)
def test_a_wrong_definition_is_an_enum_error(items):
    with pytest.raises(EnumError):
        Enumeration("Wrong", items)
