"""What has changed, by generation: the memory of the event hub. Pure.

Each change has a generation, one more than the change before. Of each object only the newest state is kept, so the
memory is bounded by the number of objects, however many changes and however slow the clients are. A client holds a
token: the generation up to which it knows everything. It gets the objects that have changed since, each once.

Objects that are deleted are remembered up to a bound, the oldest is forgotten first. From then on a token of before
cannot be continued: the client might have an object whose removal is forgotten.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from gateway.core.rpc.model import Value

MESSAGE = "message"  # the class whose new objects come first in a batch
MOST_DELETED = 10_000  # objects
MOST_LIVES = 16  # of one object that comes and goes
_TOKEN = re.compile(r"([0-9]{1,20}),([0-9]{1,20})")

ObjectId: TypeAlias = "tuple[str, str]"  # class in lower case, and reference
Lives: TypeAlias = "tuple[tuple[int, int], ...]"  # generations of creation and deletion, the oldest first


class Token(NamedTuple):
    """The generation that a client knows, and the epoch in which it was counted."""

    generation: int
    epoch: int

    def __str__(self) -> str:
        return f"{self.generation:020},{self.epoch:020}"


BEGINNING = Token(0, 0)  # of a client that knows nothing


def parse_token(text: str) -> Token | None:
    """Read a token; the empty text is the beginning. None: it is not a token."""
    if not text:
        return BEGINNING
    found = _TOKEN.fullmatch(text)
    return None if found is None else Token(int(found[1]), int(found[2]))


class ObjectState:
    """The newest state of one object. `created`, `modified`: the generations of its first and last change.

    `before`: where the object was there earlier and had gone, the generations of its creation and deletion each time.
    """

    __slots__ = ("_digest", "_make", "_record", "before", "created", "id", "is_deleted", "modified")

    def __init__(self, object_id: ObjectId, generation: int, make: Callable[[], Value], before: Lives = ()) -> None:
        self.id = object_id
        self.before = before
        self.created = self.modified = generation
        self.is_deleted = False
        self._make: Callable[[], Value] | None = make
        self._record: Value = None
        self._digest: bytes | None = None

    @property
    def record(self) -> Value:
        """The record, made when first read after a change; None if it cannot be represented or the object is gone."""
        if self._make is not None:
            self._record, self._make = self._make(), None
        return self._record

    @property
    def digest(self) -> bytes | None:
        """A digest of the record, which is not kept for it; None: it has none, so it equals no other."""
        if self._digest is None and not self.is_deleted:
            self._digest = digest_of(self._make() if self._make is not None else self._record)
        return self._digest

    def change(self, generation: int, make: Callable[[], Value] | None) -> None:
        """The object has changed; `make` gives its record, None leaves it as it is."""
        self.modified = generation
        if make is not None:
            self._make, self._record = make, None
            self._digest = None

    @property
    def lives(self) -> Lives:
        """All times that a deleted object was there."""
        return (*self.before, (self.created, self.modified))

    def was_there(self, generation: int) -> bool:
        """Whether a client that knows everything up to a generation has this object, which is deleted now."""
        return any(created <= generation < deleted for created, deleted in self.lives)

    def delete(self, generation: int) -> None:
        """The object is gone."""
        self.modified, self.is_deleted = generation, True
        self._make = self._record = self._digest = None


def digest_of(record: Value) -> bytes | None:
    """A digest that two records share only if they are equal, types included; the order of a dict does not count."""
    try:
        return blake2b(msgspec.msgpack.encode(record, order="deterministic"), digest_size=16).digest()
    except (ValueError, TypeError, OverflowError):  # an integer of more than 64 bits, a surrogate
        return None


Operation: TypeAlias = Literal["add", "mod", "del"]


class ObjectChange(NamedTuple):
    """An object that has changed, as it is told to a client."""

    operation: Operation
    state: ObjectState


def change_since(state: ObjectState, generation: int) -> ObjectChange:
    """The change of an object for a client that knows everything up to a generation."""
    return ObjectChange("del" if state.is_deleted else "add" if state.created > generation else "mod", state)


EACH = 64  # bytes of a class or an object of a subscription, beside its text


_NONE: frozenset[Any] = frozenset()  # each further one takes 200 bytes


class Wanted(NamedTuple):
    """What a client subscribes to: everything, classes, or single objects."""

    everything: bool = False
    classes: frozenset[str] = _NONE
    objects: frozenset[ObjectId] = _NONE

    def has(self, object_id: ObjectId) -> bool:
        """Whether a change of this object is wanted."""
        return self.everything or object_id[0] in self.classes or object_id in self.objects

    def concerned(self, names: Iterable[str]) -> list[str]:
        """The classes of which any object is wanted."""
        wanted = self.classes | {name for name, _ in self.objects}
        return [name for name in names if self.everything or name in wanted]

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        names = sum(map(len, self.classes)) + sum(len(name) + len(ref) for name, ref in self.objects)
        return names + EACH * (len(self.classes) + len(self.objects))

    def __or__(self, other: Wanted) -> Wanted:
        return Wanted(self.everything or other.everything, self.classes | other.classes, self.objects | other.objects)

    def without(self, other: Wanted) -> Wanted:
        """What is left when parts of the subscription end."""
        if other.everything:
            return NOTHING
        return Wanted(self.everything, self.classes - other.classes, self.objects - other.objects)


NOTHING = Wanted()
EVERYTHING = Wanted(everything=True)


class ChangeLog:
    """The objects of one service and their changes. `epoch`: a number that no other log has, of any process.

    Generations begin at `first`. Where that is made of the time, those of a later process are greater.
    `on_change` is called with each object that changes.
    """

    def __init__(
        self, first: int, epoch: int, on_change: Callable[[ObjectId], object], most_deleted: int = MOST_DELETED
    ) -> None:
        self.epoch = epoch
        self.first = self.generation = first
        self.forgotten = first  # deletions up to this generation are not remembered
        self._most_deleted = most_deleted
        self._on_change = on_change
        self._objects: dict[ObjectId, ObjectState] = {}  # the one that changed last is the last
        self._deleted: dict[ObjectId, None] = {}  # the oldest first
        self._counts: Counter[str] = Counter()

    @property
    def token(self) -> Token:
        """The token of a client that knows everything up to now."""
        return Token(self.generation, self.epoch)

    def __len__(self) -> int:
        """How many objects are remembered, deleted ones included."""
        return len(self._objects)

    def count(self, name: str) -> int:
        """How many objects of a class there are."""
        return self._counts[name]

    def find(self, object_id: ObjectId) -> ObjectState | None:
        """The state of an object that exists."""
        found = self._objects.get(object_id)
        return None if found is None or found.is_deleted else found

    def put(self, object_id: ObjectId, make: Callable[[], Value]) -> None:
        """An object is new, or has changed; `make` gives its record."""
        self.generation += 1
        found = self._objects.pop(object_id, None)
        if found is None or found.is_deleted:
            self._deleted.pop(object_id, None)
            found = ObjectState(object_id, self.generation, make, () if found is None else self._remembered(found))
            self._counts[object_id[0]] += 1
        else:
            found.change(self.generation, make)
        self._objects[object_id] = found
        self._on_change(object_id)

    def _remembered(self, deleted: ObjectState) -> Lives:
        """The earlier times of an object that comes again; what is left out is forgotten as a deletion is."""
        lives = tuple(life for life in deleted.lives if life[1] > self.forgotten)
        for _, end in lives[:-MOST_LIVES]:
            self.forgotten = max(self.forgotten, end)
        return lives[-MOST_LIVES:]

    def touch(self, object_id: ObjectId) -> Token | None:
        """Have an object count as changed; returns the token of just before. None: there is no such object."""
        found = self.find(object_id)
        if found is None:
            return None
        before = self.token
        self.generation += 1
        found.change(self.generation, None)
        self._objects[object_id] = self._objects.pop(object_id)
        self._on_change(object_id)
        return before

    def of_class(self, name: str) -> list[ObjectId]:
        """The objects of a class that exist."""
        return [each for each, state in self._objects.items() if each[0] == name and not state.is_deleted]

    def remove(self, object_id: ObjectId) -> None:
        """An object is gone."""
        found = self.find(object_id)
        if found is None:
            return
        self.generation += 1
        found.delete(self.generation)
        self._objects[object_id] = self._objects.pop(object_id)
        self._deleted[object_id] = None
        self._counts[object_id[0]] -= 1
        if len(self._deleted) > self._most_deleted:
            oldest = next(iter(self._deleted))
            del self._deleted[oldest]
            self.forgotten = max(self.forgotten, self._objects.pop(oldest).modified)
        self._on_change(object_id)

    def can_continue(self, token: Token) -> bool:
        """Whether everything that has happened since a token is known. It always is for a client that knows nothing."""
        if token == BEGINNING:
            return True
        return token.epoch == self.epoch and self.forgotten <= token.generation <= self.generation

    def since(self, generation: int, wanted: Wanted) -> list[ObjectState]:
        """The wanted objects that have changed since, the oldest change first: since 0 all that exist.

        A deleted one that the client does not have is left out.
        """
        changed = self.changed_since(generation, wanted)
        return [each for each in changed if not each.is_deleted or each.was_there(generation)]

    def changed_since(self, generation: int, wanted: Wanted) -> list[ObjectState]:
        """The same with every deleted object."""
        found: list[ObjectState] = []
        for state in self._candidates(wanted):
            if state.modified <= generation:
                break
            if wanted.has(state.id):
                found.append(state)
        found.reverse()
        return found

    def _candidates(self, wanted: Wanted) -> Iterable[ObjectState]:
        """Objects among which all wanted ones are, the one that changed last first."""
        if wanted.everything or wanted.classes:
            return reversed(self._objects.values())
        known = [self._objects[each] for each in wanted.objects if each in self._objects]
        return sorted(known, key=lambda state: -state.modified)


def event_records(changes: Iterable[ObjectChange]) -> Value:
    """The events of a batch as XenAPI has them: new objects, messages first; then changed ones, then those gone."""
    order = {"add": 1, "mod": 2, "del": 3}

    def place(change: ObjectChange) -> int:
        is_new_message = change.operation == "add" and change.state.id[0] == MESSAGE
        return 0 if is_new_message else order[change.operation]

    return [event_record(change) for change in sorted(changes, key=place)]


def event_record(change: ObjectChange) -> Value:
    """An event as XenAPI has it; `snapshot` is the newest record."""
    operation, state = change
    name, ref = state.id
    event: dict[str, Value] = {
        "id": str(state.modified),
        "timestamp": "0.0",
        "class": name,
        "operation": operation,
        "ref": ref,
    }
    return event if operation == "del" else {**event, "snapshot": state.record}
