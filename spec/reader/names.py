"""Chapter 09: names, and what references mean in the state of a space."""

import re
from datetime import UTC, datetime, timedelta
from itertools import groupby

from spec.reader.refusals import DamagedError, NewerError, need

NAME = "^[a-z0-9][a-z0-9._-]{0,63}$"
FORBIDDEN = r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*\.\..*|.*\."
RESERVED = r"[vc][0-9]+|latest|head|[0-9a-f]{8,}|[0-9]{4}-[0-9]{2}-[0-9]{2}.*"
REFERENCE = r"(?:([^/@~]+)/)?([^/@~]*)(?:@([^@~]+))?(?:~(0|[1-9][0-9]{0,8}))?"
TIME = r"[0-9-]{10}([T ]([01][0-9]|2[0-3])(:[0-9]{2}){1,2}(\.[0-9]{1,6})?(Z|[+-][0-9:]{5})?)?"


def is_name(text):
    return bool(re.fullmatch(NAME[1:-1], text) and not re.fullmatch(FORBIDDEN, text))


# Whether a text is a selector (spec REF-01)
def is_selector(text):
    return bool(
        text in ("latest", "head")
        or re.fullmatch("[vc][1-9][0-9]{0,14}|[0-9a-f]{8,64}", text)
        or end_of(text)
        or (is_name(text) and not re.fullmatch(RESERVED, text))
    )


# The last microsecond of a date, a minute or a second, as in a record; nothing if it is no time
# (spec REF-07)
def end_of(text):
    if not re.fullmatch(TIME, text):
        return ""
    try:
        begin = datetime.fromisoformat(text)
    except ValueError as error:
        raise DamagedError(f"REF-01: {error}") from error
    need(1900 <= begin.year <= 9998, "REF-01", f"{text}: a year that no record has")
    parts = 1 if len(text) == 10 else text[10:].count(":") - (text[-6] in "+-") + 1
    length = {1: timedelta(days=1), 2: timedelta(minutes=1), 3: timedelta(seconds=1)}[parts]
    length = timedelta(microseconds=1) if "." in text else length
    end = (begin if begin.tzinfo else begin.replace(tzinfo=UTC)) + length
    return (end - timedelta(microseconds=1)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# What is meant in a space by the parts of a reference (spec REF-03 to REF-09)
def meaning_of(state, name, selector, back):
    task = state.tasks.get(name)
    need(task or not name, "REF-03", f"there is no task {name}")
    if re.fullmatch("v[0-9]+", selector):
        version = int(selector[1:]) - back
        there = 1 <= version <= len(task.versions)
        need(there, "REF-05" if back else "REF-04", f"there is no v{version}")
        return f"{task.name}@v{version}"
    if name and selector in task.aliases:
        need(not state.newer, "EVO-05", "aliases may have moved", NewerError)
        *earlier, last = task.aliases[selector]
        moves = [last, *(version for version in reversed(earlier) if version)]
        targets = [version for version, _ in groupby(moves)]
        need(back < len(targets), "REF-05", f"{selector} had {len(targets)} targets")
        need(targets[back], "REF-06", f"{selector} was removed")
        return f"{task.name}@v{targets[back]}"
    number = commit_of(state, selector)
    if not name:
        need(number > back, "REF-05", f"there is no c{number - back}")
        return f"@c{number - back}"
    versions = sum(version["number"] <= number for version in task.versions)
    need(versions, "REF-07", f"{task.name} was not there at c{number}")
    live = [live for since, live in task.lives if since <= number][-1]
    need(live, "REF-09", f"{task.name} is dropped at c{number}")
    need(versions > back, "REF-05", f"there is no v{versions - back}")
    return f"{task.name}@v{versions - back}"


# The commit that a selector names (spec REF-07)
def commit_of(state, selector):
    commits, until = state.commits, end_of(selector)
    is_newest = selector in ("latest", "head") or until >= commits[-1][1]
    need(not (is_newest and state.newer), "EVO-05", "the newest is not known", NewerError)
    if re.fullmatch("c[0-9]+", selector):
        found = [int(selector[1:])]
    elif until:
        found = [sum(time <= until for _, time in commits)]
    elif re.fullmatch("[0-9a-f]{8,64}", selector):
        found = [n for n, (digest, _) in enumerate(commits, 1) if digest.startswith(selector)]
    else:
        found = [len(commits) if is_newest else state.tags.get(selector, 0)]
    need(len(found) == 1 and 1 <= found[0] <= len(commits), "REF-07", f"{selector}: no commit")
    return found[0]
