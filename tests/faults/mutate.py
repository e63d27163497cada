"""Seeded changes of valid files: of bytes, of texts, of JSON, and of sealed files whose checksum is made anew."""

import hashlib
import io
import json
import re
import struct
import zipfile
from random import Random

NUMBERS = (0, -1, 1, 2, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**31, 2**32, 2**40, 2**63 - 1,
           -(2**63), 2**63, 2**64, 10**30, 10**400)
FLOATS = (float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320, 0.5, -0.0)
TEXTS = ("", " ", "\0", "..", "../../x", "/etc/passwd", "\ud800", "a" * 5000, "NaN", "1e999", "-1", "é\u202e", "<b>",
         "[", "%s{0}", "C:\\x", "9" * 5000, "1_000", "0x10", "１２", "²", "2020-01-01", "true", "\n", '"', "\t,")
WORDS = tuple(t.encode("utf-8", "surrogatepass") for t in TEXTS) + (
    b"\xff\xfe", b"\xef\xbb\xbf", b"0", b"-1", b"1e308", b"nan", b"inf", b"99999999999999999999", b"<", b">", b"&lol;",
    b"{", b"}", b"null", b'"', b"\\", b"\\ud800", b"\r", b"\x1a")


def flip(data, r):
    out = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 8))):
        if out:
            out[r.randrange(len(out))] ^= 1 << r.randrange(8)
    return bytes(out)


def cut(data, r):
    return data[: r.randrange(len(data) + 1)]


def drop(data, r):
    a = r.randrange(len(data) + 1)
    return data[:a] + data[a + r.choice((1, 2, 4, 16, 100)):]


def insert(data, r):
    a = r.randrange(len(data) + 1)
    return data[:a] + r.choice((r.choice(WORDS), r.randbytes(r.randrange(1, 40)))) + data[a:]


def double(data, r):
    a = r.randrange(len(data) + 1)
    part = data[a: a + r.choice((1, 4, 30, 300))]
    return data[:a] + part * r.choice((2, 3, 50)) + data[a:]


def number(data, r, within=None):
    "A binary number at some place becomes a strange one."
    n = min(len(data), within or len(data))
    code = r.choice(("<b", "<h", ">h", "<i", ">i", "<q", ">q", "<f", ">f", "<d"))
    size = struct.calcsize(code)
    if n < size:
        return insert(data, r)
    a = r.randrange(n - size + 1)
    a -= a % size if r.random() < 0.7 else 0
    if code[1] in "fd":
        value = r.choice((*FLOATS[:3], 1e38, -1e38, 0.0, 1e-40))
    else:
        bits = 8 * size
        value = (r.choice(NUMBERS[:-1]) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    return data[:a] + struct.pack(code, value) + data[a + size:]


def header_number(data, r):
    return number(data, r, within=400)


def _exchanged(data, r, pattern, other):
    "A place that a pattern finds becomes other(all that it finds); something is put in where it finds none."
    found = list(re.finditer(pattern, data))
    if not found:
        return insert(data, r)
    m = r.choice(found)
    return data[: m.start()] + other(found) + data[m.end():]


def text_number(data, r):
    "A written number becomes a strange one."
    return _exchanged(data, r, rb"-?\d+(?:\.\d+)?", lambda found: str(r.choice((*NUMBERS, *FLOATS))).encode())


def word(data, r):
    "A word or cell becomes another one."
    return _exchanged(data, r, rb"[^\s,\t\"<>{}:\[\]]+", lambda found: r.choice((r.choice(WORDS), r.choice(found)[0])))


def line(data, r):
    "Lines are dropped, doubled or exchanged; cells too."
    lines = data.split(b"\n")
    a, b = r.randrange(len(lines)), r.randrange(len(lines))
    what = r.randrange(5)
    if what == 0:
        del lines[a]
    elif what == 1:
        lines.insert(a, lines[b])
    elif what == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif what == 3:
        lines[a] = r.choice((b"\t", b",")).join(lines[a].split(r.choice((b"\t", b",")))[::-1])
    else:
        lines[a] = r.choice(WORDS) * r.choice((1, 100))
    return b"\n".join(lines)


def noise(data, r):
    return r.randbytes(r.choice((0, 1, 3, 4, 16, 100, len(data))))


def keep_start(data, r):
    "Right magic, then anything."
    return data[: r.choice((2, 4, 8, 16))] + r.randbytes(r.choice((0, 8, 200, len(data))))


BYTES = (flip, cut, drop, insert, double, number, header_number, noise, keep_start)
LINES = (flip, cut, drop, insert, double, text_number, word, word, line, line, noise)


def several(kinds, data, r):
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        data = r.choice(kinds)(data, r)
    return data


class Deep:
    "Stands for a value nested so deep that parsers give up."

    def __init__(self, r):
        self.n, self.open, self.close = r.choice((50, 400, 900, 3000, 100_000)), *r.choice((("[", "]"), ('{"a":', "}")))

    def __str__(self):
        return self.open * self.n + "1" + self.close * self.n


def value(r, depth=0):
    "Any JSON value."
    kind = r.randrange(9)
    if kind == 0:
        return r.choice((None, True, False))
    if kind <= 2:
        return r.choice(NUMBERS)
    if kind == 3:
        return r.choice(FLOATS)
    if kind <= 5:
        return r.choice(TEXTS)
    if depth > 2 or kind == 6:
        return r.choice(([], {}))
    if kind == 7:
        return [value(r, depth + 1) for _ in range(r.choice((1, 2, 5)))]
    return {r.choice((*TEXTS[:8], "a", "b")): value(r, depth + 1) for _ in range(r.choice((1, 2, 5)))}


def places(tree, path=()):
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for k, v in items:
        yield from places(v, (*path, k))


def changed(tree, path, change):
    if not path:
        return change(tree)
    out = dict(tree) if isinstance(tree, dict) else list(tree)
    out[path[0]] = changed(tree[path[0]], path[1:], change)
    return out


def json_tree(tree, r, deep=True):
    "A tree with one to three places changed: another value, a key missing, doubled or added, a part moved."
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        found = list(places(tree))
        shallow = [p for p in found if len(p) <= 2]
        path = r.choice(r.choice((found, shallow)))
        what = r.randrange(6)

        def change(v, what=what, found=found, tree=tree):
            if what == 0 and isinstance(v, dict) and v:
                return {k: x for k, x in v.items() if k != gone} if (gone := r.choice(list(v))) is not None else v
            if what == 1 and isinstance(v, dict):
                return v | {r.choice(TEXTS): value(r)}
            if what == 1 and isinstance(v, list):
                return v * r.choice((0, 2, 100))
            if what == 2:  # the value of another place
                other = tree
                for k in r.choice(found):
                    other = other[k]
                return other
            if what == 3 and isinstance(v, (int, float)) and not isinstance(v, bool):
                return r.choice((*NUMBERS, *FLOATS, v + 1, -v, str(v)))
            if what == 4 and deep and r.random() < 0.2:
                return Deep(r)
            return value(r)

        tree = changed(tree, path, change)
        if isinstance(tree, Deep) or any(isinstance(at(tree, p), Deep) for p in places(tree)):
            break
    return tree


def at(tree, path):
    for k in path:
        tree = tree[k]
    return tree


def dumped(tree):
    "JSON text, with what is nested too deep for json.dumps put in afterwards."
    deep = {}

    def stand_in(v):
        deep[key := f"@deep{len(deep)}@"] = str(v)
        return key

    text = json.dumps(tree, default=stand_in)
    for k, v in deep.items():
        text = text.replace(json.dumps(k), v)
    return text


def json_file(data, r):
    text = dumped(json_tree(json.loads(data), r))
    if r.random() < 0.1:  # a key twice
        text = re.sub(r'("\w+"): ', lambda m: f"{m[1]}: {json.dumps(value(r))}, {m[1]}: ", text, count=1)
    return text.encode()


def json_lines(data, r):
    lines = data.decode().split("\n")
    i = r.choice([i for i, x in enumerate(lines) if x.strip()])
    return "\n".join(json_file(x, r).decode() if j == i else x for j, x in enumerate(lines)).encode()


def sealed_json(data, r):
    "What `store.write_json` would have written of a changed content."
    content = json.loads(data)
    content.pop("sha256")
    for _ in range(5):
        tree = json_tree(content, r)
        if isinstance(tree, dict):
            break
    else:
        tree = {}
    try:
        tree = json.loads(dumped(tree))
        digest = hashlib.sha256(json.dumps(tree, sort_keys=True, allow_nan=True).encode()).hexdigest()
        return json.dumps(tree | {"sha256": digest}).encode()
    except (RecursionError, ValueError):
        return dumped(content | {"x": Deep(r), "sha256": "0" * 64}).encode()


def sealed_corpus(data, r):
    "What `corpora.save_prepared` would have written of a changed record."
    from evonb.text.tokens import _seal

    record = json.loads(data)
    record.pop("seal")
    tree = json_tree(record, r, deep=False)
    if not isinstance(tree, dict):
        return dumped(tree).encode()
    tree = json.loads(dumped(tree))
    return json.dumps(tree | {"seal": _seal(tree)}).encode()


def tensor_header(data, r):
    "A safetensors file with another header: wrong offsets, shapes, types, lengths."
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8: 8 + n])
    what = r.randrange(4)
    if what == 0:
        size = r.choice((0, 1, n - 1, n + 1, 2**20, 2**31, 2**60, 2**64 - 1))
        return size.to_bytes(8, "little") + data[8:]
    tree = json_tree(header, r)
    if what == 1 and len(header) > 2:  # two tensors at one place
        a, b = r.sample([k for k in header if k != "__metadata__"], 2)
        tree = header | {a: header[a] | dict(data_offsets=header[b]["data_offsets"])}
    text = dumped(tree).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + n:]


def sealed_tensors(data, r):
    "What `store.write_tensors` would have written of changed metadata, tensors or both."
    import torch
    from safetensors.torch import load, save

    from evonb.store import tensors_digest

    n = int.from_bytes(data[:8], "little")
    meta = json.loads(json.loads(data[8: 8 + n])["__metadata__"]["evonb"])
    tensors = load(data)
    what = r.randrange(4)
    if what and meta:
        try:
            meta = json.loads(dumped(json_tree(meta, r)))
        except RecursionError:
            meta = value(r)
    if what != 1 and tensors:
        name = r.choice(sorted(tensors))
        t = tensors[name]
        changes = (
            lambda: tensors.pop(name),
            lambda: tensors.update({name: t.reshape(-1)[: r.randrange(t.numel() + 1)].clone()}),
            lambda: tensors.update({name: t.to(r.choice((torch.float64, torch.int64, torch.bool, torch.float16)))}),
            lambda: tensors.update({r.choice(TEXTS[:8]): t.clone()}),
            lambda: tensors.update({name: t.reshape(-1, 1).clone() if t.numel() else t}),
            lambda: tensors.update({name: torch.tensor(r.choice((float("nan"), 0, 2**40, -1)))}),
            lambda: tensors.update({name: torch.randint(0, 127, t.shape, generator=torch.Generator().manual_seed(
                r.randrange(2**31))).to(t.dtype)}),
        )
        r.choice(changes)()
    try:
        text = json.dumps(meta)
        digest = tensors_digest(tensors, meta)
        return save(tensors, dict(format="pt", evonb=text, sha256=digest))
    except (RuntimeError, ValueError, RecursionError, UnicodeError):
        return tensor_header(data, r)


def archive(files, sealed=True):
    "A zip of files as evonb writes it; `files`: name -> bytes."
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for k, v in files.items():
            z.writestr(zipfile.ZipInfo(k), v)
        z.comment = b"0" * 64
    data = out.getvalue()[:-64]
    return data + (hashlib.sha256(data).hexdigest().encode() if sealed else b"0" * 64)


def zstd(data):
    from numcodecs.zstd import Zstd

    return bytes(Zstd(level=1).encode(data))


def zarr_part(name, data, r):
    "A changed file of a zarr store: its metadata, or a chunk, unpacked and packed again or as it is."
    if name.endswith("zarr.json"):
        return json_file(data, r) if r.random() < 0.9 else several(LINES, data, r)
    if r.random() < 0.5 and data[:4] == b"\x28\xb5\x2f\xfd":
        from numcodecs.zstd import Zstd

        return zstd(several(BYTES, bytes(Zstd().decode(data)), r) or b"\0")
    return several(BYTES, data, r)


def sealed_archive(data, r):
    "A data set with one file changed, dropped, doubled or renamed, and a right checksum."
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        files = {n: z.read(n) for n in z.namelist()}
    name = r.choice(r.choice((sorted(files), [n for n in sorted(files) if n.endswith("zarr.json")])))
    what = r.randrange(8)
    if what == 0:
        del files[name]
    elif what == 1:
        files[r.choice(("../x", "/x", name + "/y", "a\\b", "x" * 3000))] = files.pop(name)
    elif what == 2:
        files[r.choice(sorted(files))] = files[name]
    else:
        files[name] = zarr_part(name, files[name], r)
    made = archive(files)
    if r.random() < 0.1:  # the archive's own tables, with a right checksum
        body = several((flip, number, double, drop), made[:-64], r)
        made = body + hashlib.sha256(body).hexdigest().encode()
    return made


def gzipped(change):
    "Changes what is inside of a gzip file."
    import gzip

    def inner(data, r):
        return gzip.compress(change(gzip.decompress(data), r), 1, mtime=0)

    return inner


def zipped(change):
    "Changes one member of a zip (a torch file): its pickle or a tensor's bytes."

    def inner(data, r):
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            files = {n: z.read(n) for n in z.namelist()}
        name = r.choice((r.choice(sorted(files)), next(n for n in files if n.endswith("data.pkl"))))
        files[name] = change(files[name], r)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as z:
            for k, v in files.items():
                z.writestr(zipfile.ZipInfo(k), v)
        return out.getvalue()

    return inner


def some_bytes(data, r):
    return several(BYTES, data, r)


def some_lines(data, r):
    return several(LINES, data, r)


def make(kinds, data, reader, seed):
    "The input of a reader for a seed: deterministic."
    r = Random(f"{reader}/{seed}")
    return r.choice(kinds)(data, r)
