"""What may not be written in any file of the project: unpickling, shells, code that comes with data or a model."""

from __future__ import annotations

import ast
from collections.abc import Iterator

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
# Calls that unpickle, run a shell or run text as code. A name in front of the dot stands for what was imported so.
CALLS = {
    "torch.load", "numpy.load", "np.load", "pandas.read_pickle", "pd.read_pickle", "os.system", "os.popen", "pty.spawn",
    "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "tempfile.mktemp",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all",
    "code.interact", "runpy.run_path",
}  # fmt: skip
LOADERS = {"Loader", "FullLoader", "UnsafeLoader", "CLoader", "CFullLoader", "CUnsafeLoader"}  # of yaml, but SafeLoader
RUN_TEXT = {"eval", "exec", "__import__", "compile"}
MUST_BE = {"trust_remote_code": False, "shell": False, "allow_pickle": False, "weights_only": True}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import that runs; `from a import b` gives "a.b"."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from imports(ast.Module([other], []))
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)
        else:
            yield from imports(node)


def forbidden(tree: ast.AST) -> list[str]:
    """Return what may not be written anywhere: running a data set's or model's code, unpickling, shells."""
    wrong = [
        f"{line}: {name}"
        for line, name in imports(tree)
        if name.split(".")[0] in PICKLES or name in CALLS or name.removeprefix("yaml.") in LOADERS
    ]
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, (ast.Attribute, ast.Name)) else ""
        if text in CALLS or text.split(".")[0] in PICKLES or (text.startswith("yaml.") and text[5:] in LOADERS):
            wrong.append(f"{node.lineno}: {text}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in RUN_TEXT:
            wrong.append(f"{node.lineno}: {ast.unparse(node.func)}()")
        for key, value in _settings(node):
            if key in MUST_BE and not (isinstance(value, ast.Constant) and value.value is MUST_BE[key]):
                wrong.append(f"{value.lineno}: {key} must be {MUST_BE[key]}")
    return wrong


def _settings(node: ast.AST) -> list[tuple[object, ast.expr]]:
    """Return (name, value) of what is set by a keyword, a dictionary, an attribute or a default."""
    if isinstance(node, ast.keyword):
        return [(node.arg, node.value)]
    if isinstance(node, ast.Dict):
        return [(getattr(key, "value", None), value) for key, value in zip(node.keys, node.values, strict=True)]
    if isinstance(node, ast.Assign):
        names = [ast.unparse(target).rpartition(".")[2] for target in node.targets]
        keys = [getattr(target.slice, "value", None) for target in node.targets if isinstance(target, ast.Subscript)]
        return [(name, node.value) for name in [*names, *keys]]
    return []
