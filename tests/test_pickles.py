"""Pickles and npz archives of datasets: what is read, and that nothing in them runs."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import scipy.sparse
from old_pickles import Call, dump_old, fake

from data.sources.labelled.npz import read_npz
from data.sources.labelled.pickles import read_pickle
from engine.errors import UserError


def same(a, b):
    if isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_are_what_pickle_itself_reads(protocol):
    values = {
        "floats": np.arange(6, dtype="f4").reshape(2, 3),
        "by column": np.arange(6.0).reshape(2, 3).T,
        "big-endian": np.arange(3, dtype=">i2"),
        "nothing": np.zeros((0, 3)),
        "of objects": np.array([1, "a", None, [2]], object),
        "texts": np.array(["ab", "c"]),
        "scalar": np.float64(2),
        "bytes": b"\x80ab",
        "text": "h\xe9",
        "tuple": (1, 2.5, True, None, -5, 1 << 70, 1 + 2j),
        "set": {1, "a"},
        "nested": {1: {2: []}, (1, "b"): ()},
        "ordered": collections.OrderedDict([("b", 1), ("a", np.ones(2))]),
    }
    read = read_pickle(pickle.dumps(values, protocol))
    assert list(read) == list(values)
    assert list(read.pop("ordered")) == ["b", "a"]
    for name in read:
        assert same(read[name], values[name]), name
    read["floats"][0] = 5  # may be written to


def test_files_of_python_2_with_chumpy_and_scipy_are_plain_arrays():
    rng = np.random.default_rng(0)
    dirs = rng.normal(size=(4, 3, 2))
    sparse = scipy.sparse.random(3, 5, 0.5, "csc", random_state=0)
    data = {
        "name": "caf\xe9",
        "long": "x" * 1000,
        "weights": rng.normal(size=(10, 20)),
        "J_regressor": sparse,
        "by row": scipy.sparse.csr_matrix(sparse),
        "shapedirs": fake(
            "chumpy.reordering",
            "Select",
            {
                "a": fake("chumpy.ch", "Ch", {"x": dirs.ravel(), "_dirty_vars": {"x"}}),
                "idxs": np.arange(24)[::-1],
                "preferred_shape": (4, 3, 2),
            },
        ),
    }
    read = read_pickle(dump_old(data))
    assert (read["name"], read["long"]) == ("caf\xe9", "x" * 1000)
    assert np.array_equal(read["weights"], data["weights"])
    assert np.array_equal(read["J_regressor"], sparse.toarray())
    assert np.array_equal(read["by row"], sparse.toarray())
    assert np.array_equal(read["shapedirs"], dirs.ravel()[::-1].reshape(4, 3, 2))


def test_a_pandas_table_is_a_dict_of_columns():
    def index(cls, **entries):
        module = "range" if cls == "RangeIndex" else "base"
        of = type(cls, (), {"__module__": f"pandas.core.indexes.{module}", "__qualname__": cls})
        return Call("pandas.core.indexes.base", "_new_Index", of, entries)

    names = np.array(["imgPath", "camX", "X"], object)
    columns = index("Index", data=names, name=None)
    rows = index("RangeIndex", start=0, stop=2, step=1, name=None)
    paths = np.array([["a.png", "b.png"], [[1.0, 2.0], [3.0]]], object)
    blocks = [
        {"values": paths, "mgr_locs": slice(0, 3, 2)},
        {"values": np.array([[1.5, 2.5]]), "mgr_locs": np.array([1])},
    ]
    state = ([columns, rows], [], [], {"0.14.1": {"axes": [columns, rows], "blocks": blocks}})
    manager = Call("pandas.core.internals.managers", "BlockManager", state=state)
    table = fake("pandas.core.frame", "DataFrame", {"_mgr": manager, "_typ": "dataframe"})
    read = read_pickle(dump_old(table))
    assert list(read) == ["imgPath", "camX", "X"]
    assert read["imgPath"].tolist() == ["a.png", "b.png"] and read["camX"].tolist() == [1.5, 2.5]
    assert read["X"].tolist() == [[1.0, 2.0], [3.0]]


def test_body_models_of_every_kind_are_read(samples):
    models = samples / "body_model_standins"
    mano = read_pickle(models / "MANO_LEFT.pkl")
    assert mano["shapedirs"].shape == (778, 3, 10) and mano["J_regressor"].shape == (16, 778)
    # The regressor gives the joints that lie beside it.
    np.testing.assert_allclose(mano["J_regressor"] @ mano["v_template"], mano["J"], atol=1e-9)
    assert read_pickle(models / "MANO_RIGHT.pkl")["hands_mean"].shape == (45,)
    smpl = read_pickle(models / "SMPL_twentieth.pkl")
    assert smpl["posedirs"].shape == (344, 3, 207) and smpl["bs_style"] == "lrotmin"
    neutral = read_npz(models / "SMPL_NEUTRAL.npz")
    assert neutral["v_template"].shape == (6890, 3)
    smplx = read_npz(models / "SMPLX_NEUTRAL.npz", ("joint2num", "kintree_table", "nothing"))
    assert sorted(smplx) == ["joint2num", "kintree_table"]
    assert smplx["joint2num"][()]["j3"] == 3


def attacks(marker):
    """{what: bytes of a pickle that makes the file ``marker`` where it is unpickled}."""
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    ndarray = type("ndarray", (), {"__module__": "numpy", "__qualname__": "ndarray"})
    popen = type("Popen", (), {"__module__": "subprocess", "__qualname__": "Popen"})
    return {
        "system": dump_old(Call("posix", "system", command)),
        "os.system": dump_old({"a": Call("os", "system", command)}),
        "exec": dump_old([Call("builtins", "exec", code)]),
        "eval": pickle.dumps(1, 4)[:-1] + b"0cbuiltins\neval\n(V" + code.encode() + b"\ntR.",
        "by instance": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "by object": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "by stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c"
        + bytes([len(command)])
        + command.encode()
        + b"\x85R.",
        "of a dotted name": b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        "a subtype": dump_old(
            Call("numpy.core.multiarray", "_reconstruct", popen, (0,), b"b", state=(command,))
        ),
        "by reconstructor": dump_old(Call("copyreg", "_reconstructor", popen, object, None)),
        "in an array": dump_old(
            Call(
                "numpy.core.multiarray",
                "_reconstruct",
                ndarray,
                (0,),
                b"b",
                state=(1, (1,), np.dtype("O"), False, [Call("os", "system", command)]),
            )
        ),
        "numpy's loader": dump_old(Call("numpy", "load", str(marker))),
        "persistent": b"Pos.system\n.",
        "extension": b"\x82\x01.",
        "getattr": dump_old(Call("builtins", "getattr", ndarray, "tofile")),
    }


@pytest.mark.parametrize("what", attacks("x"))
def test_a_pickle_that_executes_is_refused_and_executes_nothing(tmp_path, what):
    marker = tmp_path / "ran"
    (tmp_path / "a.pkl").write_bytes(attacks(marker)[what])
    with pytest.raises(UserError, match=r"a\.pkl .*nothing in it was executed"):
        read_pickle(tmp_path / "a.pkl")
    assert not marker.exists()


def test_pickle_itself_would_have_executed_it(tmp_path):
    """The attacks are real ones."""
    marker = tmp_path / "ran"
    pickle.loads(attacks(marker)["by stack"])
    assert marker.exists()


def test_a_refusal_names_the_class():
    with pytest.raises(UserError, match="a pickle is refused: it asks for torch.Storage, no plain"):
        read_pickle(dump_old(Call("torch", "Storage")))


def bombs():
    """{what: bytes of a small pickle that would take memory, time or the stack}."""
    doubled = b"\x80\x02]q\x00K\x01a" + b"".join(
        b"](" + b"h%c" % n * 10 + b"eq%c" % (n + 1) for n in range(30)
    )
    tuples = b"\x80\x02)q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60))
    ndarray = type("ndarray", (), {"__module__": "numpy", "__qualname__": "ndarray"})
    huge = (1, (1 << 40,), np.dtype("f8"), False, b"")
    sparse = {
        "_shape": (1 << 20, 1 << 20),
        "data": np.ones(1),
        "indices": np.zeros(1, int),
        "indptr": np.zeros((1 << 20) + 1, int),
    }
    return {
        "billion laughs": doubled + b".",
        "a key's hash": b"\x80\x02}" + tuples[2:] + b"K\x01s.",
        "depth": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "itself": b"\x80\x02]q\x00h\x00a.",
        "a shape": dump_old(
            Call("numpy.core.multiarray", "_reconstruct", ndarray, (0,), b"b", state=huge)
        ),
        "a long string": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"x.",
        "a byte array": b"\x80\x05\x96" + struct.pack("<Q", 1 << 50) + b"x.",
        "a memo": b"\x80\x02K\x01r\xff\xff\xff\xff0j\xff\xff\xff\x7f.",
        "sparse": dump_old(fake("scipy.sparse.csc", "csc_matrix", sparse)),
        "a wide dtype": dump_old(Call("numpy", "dtype", "(1000000000,)f8", False, True)),
        "brackets": b"S'" + b"(" * 100_000 + b"\n.",
        "digits": b"L" + b"9" * 100_000 + b"L\n.",
    }


@pytest.mark.parametrize("what", bombs())
def test_small_files_take_little(what):
    data = bombs()[what]
    assert len(data) < 10 << 20
    with pytest.raises(UserError, match="nothing in it was executed"):
        read_pickle(data)


def test_truncated_and_empty_files_are_told(tmp_path):
    whole = dump_old({"poses": np.arange(1000.0), "name": "a"})
    path = tmp_path / "a.pkl"
    for length in (1, 10, 100, 2000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.pkl is no pickle of plain data, or is cut short"):
            read_pickle(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.pkl is empty"):
        read_pickle(path)
    with pytest.raises(UserError, match=r"b\.pkl cannot be read: no such file"):
        read_pickle(tmp_path / "b.pkl")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"a\.pkl is"):
        read_pickle(path)


def test_an_npz_with_objects_is_read_and_one_that_executes_is_not(tmp_path):
    path, marker = tmp_path / "a.npz", tmp_path / "ran"
    arrays = {
        "poses": np.array([[1, np.nan], [2, 3]]),
        "by_column": np.arange(6.0).reshape(2, 3).T,
        "imgname": np.array(["a.png", "b.png"]),
        "smpl": np.array({"betas": np.ones((2, 10))}, object),
        "text": np.array("smplx"),
        "lists": np.array([[1], [2, 3]], object),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        read = read_npz(path)
        assert list(read) == list(arrays)
        assert np.array_equal(read["poses"], arrays["poses"], equal_nan=True)
        assert np.array_equal(read["by_column"], arrays["by_column"])
        assert read["imgname"].tolist() == ["a.png", "b.png"] and str(read["text"]) == "smplx"
        assert np.array_equal(read["smpl"][()]["betas"], np.ones((2, 10)))
        assert read["lists"].tolist() == [[1], [2, 3]]

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    np.savez(path, a=np.array([Attack()], object))
    with pytest.raises(UserError, match=r"a\.npz: a is refused: it asks for posix.system"):
        read_npz(path)
    assert not marker.exists()


def test_a_large_array_is_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.labelled.npz.MAPPED_MIN", 1000)
    big = np.arange(2000.0).reshape(20, 100)
    np.savez(tmp_path / "a.npz", small=np.ones(3), big=big, turned=np.asfortranarray(big))
    read = read_npz(tmp_path / "a.npz")
    assert isinstance(read["big"], np.memmap) and not isinstance(read["small"], np.memmap)
    assert np.array_equal(read["big"], big) and np.array_equal(read["turned"], big)


def test_npz_that_are_no_such_archives_are_told(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.npz is empty"):
        read_npz(path)
    np.savez(path, a=np.arange(1000.0))
    whole = path.read_bytes()
    path.write_bytes(whole[:4000])
    with pytest.raises(UserError, match=r"a\.npz is no npz archive, or is cut short"):
        read_npz(path)
    broken = bytearray(whole)
    broken[3000] ^= 1
    path.write_bytes(broken)
    with pytest.raises(UserError, match=r"a\.npz is no npz archive.*CRC"):
        read_npz(path)
    np.savez(path, a=np.zeros(2, [("x", "f8"), ("y", "i4")]))
    with pytest.raises(UserError, match="which is not read"):
        read_npz(path)
    # A header that claims more than there is.
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", head.getvalue())
    with pytest.raises(UserError, match="8796093022208 bytes, and has 0"):
        read_npz(path)


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.labelled.npz.UNPACKED_FREE", 1 << 20)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(4 << 20, np.uint8))
    with pytest.raises(UserError, match=r"a\.npz is refused: \d+ bytes would unpack to 4194"):
        read_npz(path)
    monkeypatch.setattr("data.sources.labelled.npz.UNPACKED_FREE", 8 << 20)
    assert read_npz(path)["a"].shape == (4 << 20,)
