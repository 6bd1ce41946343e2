"""Fences that import-linter cannot express: they read the source instead of the imports.

Each check turns the text of one module into the lines that break it, so that a test can plant a violation.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from portal.redis import keys

ROOT = Path(__file__).resolve().parents[2]

# Only `*.transitions` write states. A state column is written by an UPDATE, an INSERT or an ORM assignment.
_SQL_STATE = re.compile(
    r"(update\s+(ledger_request|ledger_batch|fleet_pilot|fleet_replica)\b[^;]*?\bset\b[^;]*?\bstate\s*=)"
    r"|(insert\s+into\s+(ledger_request|ledger_batch|fleet_pilot|fleet_replica)\b)",
    re.IGNORECASE | re.DOTALL,
)
_GUARDED_MODELS = {"Request", "Batch", "Pilot", "Replica"}
_PROCESS_CALLS = {
    ("os", "system"), ("os", "popen"), ("os", "fork"), ("os", "posix_spawn"),
    ("asyncio", "create_subprocess_exec"), ("asyncio", "create_subprocess_shell"),
}  # fmt: skip
_ENDINGS = tuple(keys.ending(key) for key in keys.OF_POOLS)
# The one place, the test that holds the spellings, and a job's comment that begins in the same way.
_SPELL_KEYS = {"portal/redis/keys.py", "tests/unit/test_redis_keys.py", "tests/job_specs.py"}
_POLICY_ALLOWED = set(sys.stdlib_module_names) | {"numpy"}
# The modules outside its room that a policy may know: enums, which themselves know the standard library only.
_ENUMS = {"portal.fleet.states", "portal.fleet.decision_kinds"}


def modules(*rooms: str) -> Iterator[tuple[str, str]]:
    """Yield (path relative to the root, source) of every module and Lua script of the rooms, migrations left out.

    A room may be one file.
    """
    for room in rooms:
        there = [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*"))
        for path in there:
            if path.suffix in (".py", ".lua") and "migrations" not in path.parts:
                yield str(path.relative_to(ROOT)), path.read_text()


def state_writes(path: str, source: str) -> list[str]:
    """Find writes of a request's, batch's, pilot's or replica's state outside a `transitions` module."""
    if Path(path).stem == "transitions" or Path(path).parent.name == "transitions":
        return []
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _SQL_STATE.search(node.value):
            found.append(f"{path}:{node.lineno}: SQL writes a state")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            words = {keyword.arg for keyword in node.keywords}
            chain = ast.unparse(node.func)
            model = chain.split(".objects", 1)[0].rsplit(".", 1)[-1]
            if model in _GUARDED_MODELS and (
                (node.func.attr == "update" and "state" in words)
                or node.func.attr
                in ("create", "bulk_create", "bulk_update", "get_or_create", "update_or_create")
            ):
                found.append(f"{path}:{node.lineno}: {chain} writes a state")
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr == "state" and _is_row(target.value):
                    found.append(f"{path}:{node.lineno}: assigns {ast.unparse(target)}")
    return found


def _is_row(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("request", "row", "batch", "pilot", "replica")


def process_starts(path: str, source: str) -> list[str]:
    """Find calls that start a process. Within portal and scheduler only `scheduler.slurm` may have one."""
    if path.startswith("scheduler/slurm/"):
        return []
    found = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and ((node.value.id, node.attr) in _PROCESS_CALLS or node.value.id == "subprocess")
        ):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "subprocess" in ast.unparse(node):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    return found


def spelled_keys(path: str, source: str) -> list[str]:
    """Return the strings that spell a Redis key, a channel or the ending of a pool's key, other than in `redis.keys`.

    Docstrings may name one. Of a Lua script every string is looked at."""
    if path in _SPELL_KEYS:
        return []
    if path.endswith(".lua"):
        strings = [
            (number, text)
            for number, line in enumerate(source.splitlines(), 1)
            for text in re.findall(r"""'([^']*)'|"([^"]*)\"""", line.partition("--")[0])
        ]
        return [f"{path}:{number}: {text}" for number, pair in strings for text in pair if _is_key(text)]
    tree = ast.parse(source)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        f"{path}:{node.lineno}: {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docs
        and _is_key(node.value)
    ]


def _is_key(text: str) -> bool:
    return bool(re.match(r"berth:[a-z{]", text)) or text.startswith(_ENDINGS)


_SQL_DECISION = re.compile(r"(insert\s+into|update)\s+fleet_decision\b", re.IGNORECASE)
_WRITES = {"create", "bulk_create", "get_or_create", "update_or_create", "update", "bulk_update"}


def decision_writes(path: str, source: str) -> list[str]:
    """Return the writes of decision rows outside their one writer: by the model, under whatever name, or by SQL."""
    if path == "scheduler/act/decision_rows.py":
        return []
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("portal.fleet.models")
        for alias in node.names
        if alias.name == "Decision"
    }
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and _SQL_DECISION.search(node.value)
        ):
            found.append(f"{path}:{node.lineno}: SQL writes a decision row")
        if isinstance(node, ast.Call):
            chain = ast.unparse(node.func)
            model, _, verb = chain.partition(".objects")
            wrote = verb.rpartition(".")[2] in _WRITES
            if model.rpartition(".")[2] in names | {"models.Decision"} and (wrote or not verb):
                found.append(f"{path}:{node.lineno}: {chain} writes a decision row")
    return found


def foreign_imports(path: str, source: str) -> list[str]:
    """Return the imports of a policy that are neither the standard library, numpy, its own room nor the fleet's enums;
    of a module of enums, those that are not the standard library."""
    room = path.rsplit("/", 1)[0].replace("/", ".")
    enums = Path(path).stem in ("states", "decision_kinds")
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            ours = not enums and (name in _ENUMS or f"{name}.".startswith(f"{room}."))
            if name.split(".")[0] not in _POLICY_ALLOWED and not ours:
                found.append(f"{path}:{node.lineno}: imports {name}")
    return found


_SQL = re.compile(
    r"\b(select\b.*\bfrom|insert\s+into|update\b.*\bset|delete\s+from)\b", re.IGNORECASE | re.DOTALL
)
MOST_COLUMNS = 6  # that a reader counts at a glance


def rows_by_position(path: str, source: str) -> list[str]:
    """Return the rows of a cursor whose columns are counted instead of named (portal.db.rows), and patched SQL text."""
    if path == "portal/db/rows.py":
        return []
    found = []
    tree = ast.parse(source)
    rows = _row_names(tree)
    for node in ast.walk(tree):
        for target in _targets(node):
            if isinstance(target, ast.Tuple) and len(target.elts) > MOST_COLUMNS:
                found.append(f"{path}:{target.lineno}: takes {len(target.elts)} columns by position")
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and node.value.id in rows
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, int)
            and node.slice.value > 1
        ):
            found.append(f"{path}:{node.lineno}: takes column {ast.unparse(node)}")
        if isinstance(node, ast.Call):
            for argument in node.args:
                if isinstance(argument, ast.Starred) and ast.unparse(argument.value) in rows:
                    found.append(f"{path}:{node.lineno}: hands on a row by position: {ast.unparse(node)}")
            if (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in ("replace", "format")
                and _SQL.search(_text_of(node.func.value))
            ):
                found.append(f"{path}:{node.lineno}: patches SQL by .{node.func.attr}")
    return found


def _targets(node: ast.AST) -> list[ast.expr]:
    """Return what rows are bound to here."""
    if isinstance(node, (ast.For, ast.comprehension)):
        return [node.target] if _is_fetched(node.iter) else []
    return node.targets if isinstance(node, ast.Assign) and _is_fetched(node.value) else []


def _row_names(tree: ast.AST) -> set[str]:
    """Return the names that stand for one row: bound to a fetch, or running over the rows of one."""
    lists: set[str] = set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _is_fetched(node.value):
            bound = {target.id for target in node.targets if isinstance(target, ast.Name)}
            (names if "fetchone" in ast.unparse(node.value) else lists).update(bound)
    for node in ast.walk(tree):
        if not isinstance(node, (ast.For, ast.comprehension)) or not isinstance(node.target, ast.Name):
            continue
        if _is_fetched(node.iter) or (isinstance(node.iter, ast.Name) and node.iter.id in lists):
            names.add(node.target.id)
    return names


def _is_fetched(node: ast.expr) -> bool:
    """Return whether these are rows as the driver gives them."""
    if isinstance(node, ast.BoolOp):
        return any(map(_is_fetched, node.values))
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.Name) and node.id == "cur"
    name = ast.unparse(node.func)
    fetches = any(keyword.arg == "fetch" for keyword in node.keywords)
    return name.endswith((".fetchone", ".fetchall", ".fetchmany")) or (name == "execute_values" and fetches)


def _text_of(node: ast.expr) -> str:
    """Return the text of a literal, without what an f-string puts in."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(
        part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )
