"""The words that the source and the manual avoid, each with the term to use instead.

Each pattern matches a whole text (the lines of a comment, a docstring, a log message, the name of a
test, a page of the manual), in any case; a space in it matches any run of white space.  A word that
also has an ordinary meaning is banned in the context of the other meaning only.
"""

import re

# What precedes "what" where it is a noun: "return what the node sent" for "return the reply".
BEFORE_NOUN = (
    "about|add|adds|after|all|also|and|answer|answers|are|as|at|before|but|by|check|checks|compare|"
    "count|counts|do|does|drop|drops|exactly|except|for|forget|forgets|from|get|gets|give|gives|"
    "hold|holds|in|into|is|just|keep|keeps|leave|leaves|like|made|make|makes|not|of|on|only|or|"
    "over|parse|parses|put|puts|read|reads|remove|removes|return|returns|send|sends|serve|serves|"
    "store|stores|take|takes|than|that|to|under|until|was|with|write|writes|yield|yields"
)
# Coins that are outputs; a coin is a currency.
OUTPUT_BEFORE = (
    "added|confirmed|deleted|flushed|free|known|mature|packed|restored|spent|unflushed|unspent|"
    "written|young|youngest|history and|history and then|deletes and|spends?|spend(?:s|ing) (?:a|the|its)"
)
OUTPUT_AFTER = (
    "alive|deletes|have seen|made|overwritten|spent|to be written|to write|wait|in memory|on disk|"
    "and (?:deletes|histor(?:y|ies)|scripts|state|undo)|(?:it|they|that blocks?|a block) spends?|"
    "are (?:being |not )?(?:committed|flushed|on disk|spent)|of (?:each|a|one) script|"
    "of (?:a|each|the) (?:block|history flush|transaction)|that (?:are on disk|wait|were written)"
)
PROGRAMS = "client|connection|daemon|node|peer|process|program|server|session|task|thread|wallet"

# Pattern: the term to use.
WORDS = {
    # one word per thing
    rf"(?:{OUTPUT_BEFORE}) coins?": "UTXO",
    rf"coins? (?:{OUTPUT_AFTER})": "UTXO",
    r"coin(?:'s)? (?:keys?|rows?|suffix)": "UTXO",
    r"back(?:s|ed|ing)? (?:(?:a|an|it|one|some|the|its|their|blocks?|them) ){0,2}up": "undo",
    r"readable (?:form|one)|compiled form": "pure-Python or Cython implementation",
    r"first synchroni[sz]ations?|bulk filling|(?:while|when|during|after|of|is|the) filling":
        "initial sync",
    r"reads? of a kind|(?:made|read) together": "batching, single-flight",
    r"(?:have|has|gets?|takes?|give|gives|let) (?:its|their|others?|others have|a|the) turns?":
        "yield to the event loop",
    r"in slices": "in time slices",
    r"lateness|held up|holds? up": "event-loop lag, blocking the loop",
    r"outbox(?:es)?": "send queue",
    r"(?:take|takes|took|taking) what (?:it|they) (?:is|are|was|were) sent": "slow reader",
    r"thr(?:ow|ows|own|ew|owing) out|cut off (?:clients?|peers?|sessions?|connections?)":
        "disconnect, abort, close",
    r"forg(?:ive|ives|iven|ave|iving)": "decay",
    r"(?:the|a|its|their|no) bill|billed|pric(?:e|es|ed) (?:of|for) (?:a|an|the|each|its) "
    r"(?:call|message|method|reply|request)s?": "cost, charge",
    r"(?:the|no|any|of|have|has|bring|brings|for) news": "notification",
    r"(?:hear|hears|heard|hearing)": "is notified",
    r"at hand|in no time|a matter of course": "cached",
    r"(?:is|are|be|was|were|un|looks?|a|and|not|of|as) ?sound": "valid, intact",
    r"set apart|sets apart|setting apart": "freeze",
    r"(?:excess|parked) (?:history|rows?)|rows? (?:in excess|that are parked)":
        "orphaned rows, staged rows",
    r"mend(?:s|ed|ing)?": "repair, recover",
    r"(?:disk|storage) troubles?|troubles? (?:of|with|at|on|in) "
    r"(?:the|a|its) (?:database|disk|engine|machine|storage)": "storage error",
    r"troubles?": "error, failure",
    r"stand-ins?": "stub, fake",
    r"dialects?": "JSON-RPC version",
    r"work(?:s|ed|ing)? off|put(?:s|ting)? off": "process, queue",
    r"put(?:s|ting)? (?:(?:it|them|a|the|\w+) )?together": "assemble, combine",
    r"(?:the|this|our|whole) house|map of the|grammars?|tongues?": "architecture, module",
    r"anew": "again",
    r"besides": "also, as well as",
    r"meanwhile": "concurrently, in the meantime",
    r"for ever": "indefinitely",
    r"in peace|(?:leave|leaves|left|let) (?:(?:it|them|this|that) )?alone": "unchanged",
    r"nobody's business|ado|nobody|somebody|everybody|anybody": "name the program or the value",
    r"chapters?": "section",
    r"lean(?:s|er|est)?": "low-overhead, with the figure",
    r"(?:is|are|was|were|comes?) late": "delayed, overdue",
    r"ha(?:s|ve|d) to say|(?:is|are|was|were) about to": "rewrite the sentence",
    r"steady(?! pace)|settled": "consistent, stable",
    r"there (?:is|are|was|were) none": "missing, no value",
    r"makes of|shall|unasked|makes? go|(?:all|those|anyone) who asks?": "rewrite the sentence",
    # words that hide the subject
    # At the start of a text, of a clause or of an item.
    r'(?:(?<=^)|(?<=""")|(?<=[#,;:(]\s))what(?!\s(?:to|happens|happened)\s)': "name the thing",
    rf"(?:{BEFORE_NOUN}) what(?! happens| happened)": "name the thing",
    rf"(?:{PROGRAMS})s?,? who|those who|one who|to whom|of whom|from whom|for whom|whom|whoever":
        "which; name the program",
    r"tell(?:s|ing)?|told": "notify, return, report, distinguish",
    r"says|said|sa(?:y|ying) (?:so|which|that|how|what|why|nothing|whether)":
        "state, report, return",
}  # fmt: skip


# One pattern with a group for each word: the engine tries the next group by its first letter.
ANY_WORD = re.compile(
    r"\b(?:" + "|".join(f"({pattern})" for pattern in WORDS).replace(" ", r"\s+") + r")\b",
    re.IGNORECASE,
)
USE_INSTEAD = list(WORDS.values())
# Literals and roles hold names, which code decides.
NAMES = re.compile(r"``[^`]+``|:[\w:]+:`[^`]+`|`[^`\n]+`_?|\"[a-z_.]+\"|'[a-z_.]+'")


def blank(match):
    """Spaces in place of a match, so that places in the text stay."""
    return re.sub(r"\S", "~", match.group())


def find_banned(text):
    """Yield (position, the words found, the term to use) for each banned word in a text."""
    prose = NAMES.sub(blank, text)
    for match in ANY_WORD.finditer(prose):
        yield match.start(), " ".join(match.group().split()), USE_INSTEAD[match.lastindex - 1]
