// Reader and verify. Each function: convert, release the GIL, call, convert.

#include "ostraca/reader.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "container/file_format.h"
#include "container/manifest.h"
#include "convert.h"
#include "engine/lifetime.h"
#include "ostraca/notes.h"

namespace ostraca::python {
namespace {

class PyReader {
 public:
  PyReader(const SystemPath& path, const ReaderOptions& options) {
    reader_ = call_engine([&] { return Reader::open(path.bytes, options); });
  }

  // Shared: close() in one thread must not pull the reader from under a load in another.
  std::shared_ptr<Reader> get() const {
    if (!reader_) throw py::value_error("the checkpoint is closed");
    return reader_;
  }
  void close() { reader_.reset(); }

  py::list leaves(const py::type& make, const py::tuple& kinds) const;
  py::list chunks(std::uint64_t leaf) const;
  std::uint64_t stored_bytes(std::uint64_t leaf) const {
    const std::shared_ptr<Reader> reader = checked(leaf);
    return call_engine([&] { return reader->stored_bytes(leaf); });
  }
  py::list read_into(const py::sequence& requests, bool deep, const py::object& progress, const py::object& modified);

 private:
  std::shared_ptr<Reader> checked(std::uint64_t leaf) const {
    std::shared_ptr<Reader> reader = get();
    check(*reader, leaf);
    return reader;
  }
  static void check(const Reader& reader, std::uint64_t leaf) {
    if (leaf >= reader.leaf_count()) throw py::index_error("there is no leaf number " + std::to_string(leaf));
  }

  std::shared_ptr<Reader> reader_;
};

// An instance of a subclass of tuple. Nothing in it leads back to it, so the garbage collector need not know it, nor
// the path below: it would otherwise walk all leaves, again and again, while they are made.
template <std::size_t kCount>
py::object untracked_tuple(const py::handle& type, std::array<py::object, kCount> items) {
  auto* const kind = reinterpret_cast<PyTypeObject*>(type.ptr());
  PyObject* const tuple = kind->tp_alloc(kind, kCount);
  if (!tuple) throw py::error_already_set();
  for (std::size_t i = 0; i < kCount; ++i) PyTuple_SET_ITEM(tuple, i, items[i].release().ptr());
  PyObject_GC_UnTrack(tuple);
  return py::reinterpret_steal<py::object>(tuple);
}

py::tuple path_parts(std::string_view path) {
  const std::vector<KeyPart> parts = take_or_raise(decode_key_path(path));
  py::tuple out(parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const KeyPart& part = parts[i];
    const bool text = part.type == KeyPart::Type::kString || part.type == KeyPart::Type::kAttribute;
    py::tuple pair(2);
    pair[0] = py::int_(static_cast<int>(part.type));
    pair[1] = text ? py::object(py::str(part.text)) : py::object(py::int_(part.integer));
    PyObject_GC_UnTrack(pair.ptr());
    out[i] = std::move(pair);
  }
  if (!parts.empty()) PyObject_GC_UnTrack(out.ptr());
  return out;
}

py::list PyReader::leaves(const py::type& make, const py::tuple& kinds) const {
  if (!PyType_FastSubclass(reinterpret_cast<PyTypeObject*>(make.ptr()), Py_TPFLAGS_TUPLE_SUBCLASS))
    throw py::type_error("leaves are tuples");
  const std::shared_ptr<Reader> reader = get();
  py::list out(reader->leaf_count());
  // Neighbours tend to have the same shape, size and detail: they share the objects.
  Dims last_shape;
  std::uint64_t last_bytes = 0;
  std::string last_detail;
  py::object shape = py::tuple(), bytes = py::int_(0), detail = py::str();
  for (std::uint64_t i = 0; i < reader->leaf_count(); ++i) {
    const LeafInfo leaf = reader->leaf(i);
    if (!std::ranges::equal(leaf.shape, last_shape)) {
      last_shape = leaf.shape;
      shape = dims_tuple(leaf.shape.data(), leaf.shape.size());
    }
    if (leaf.bytes != last_bytes) bytes = py::int_(last_bytes = leaf.bytes);
    if (leaf.detail != last_detail) detail = py::str(last_detail = leaf.detail);
    PyList_SET_ITEM(out.ptr(), static_cast<Py_ssize_t>(i),
                    untracked_tuple<9>(
                        make, {py::int_(i), path_parts(leaf.path), py::str(take_or_raise(display_name(leaf.path))),
                               kinds[static_cast<std::size_t>(leaf.kind) - 1], py::int_(static_cast<int>(leaf.dtype)),
                               detail, py::bool_(leaf.big_endian), shape, bytes})
                        .release()
                        .ptr());
  }
  return out;
}

py::list PyReader::chunks(std::uint64_t leaf) const {
  const std::shared_ptr<Reader> reader = checked(leaf);
  py::list out;
  for (const ChunkInfo& c : take_or_raise(reader->chunks(leaf)))
    out.append(py::make_tuple(c.file, c.offset, c.stored_bytes, c.decoded_bytes, static_cast<int>(c.codec), c.hash,
                              c.offset_in_extent, c.in_base, c.base_stored_bytes,
                              dims_tuple(c.origin.data(), c.origin.size()),
                              dims_tuple(c.shape.data(), c.shape.size())));
  return out;
}

// An uninitialized array for a whole leaf; on huge pages when it is worth them.
py::array new_array(const py::dtype& dtype, const LeafInfo& leaf) {
  const py::array::ShapeContainer shape(leaf.shape.begin(), leaf.shape.end());
  if (leaf.bytes < kHugePageBytesMin) return py::array(dtype, shape);
  const py::array memory = allocate(leaf.bytes);
  return py::array(dtype, shape, memory.data(), memory);
}

py::list PyReader::read_into(const py::sequence& sequence, bool deep, const py::object& progress,
                             const py::object& modified) {
  const std::shared_ptr<Reader> reader = get();
  std::vector<ReadRequest> requests;
  requests.reserve(sequence.size());
  py::list arrays(sequence.size());
  for (const py::handle item : sequence) {
    if (!PyTuple_Check(item.ptr()) || PyTuple_GET_SIZE(item.ptr()) != 3)
      throw py::value_error("a request has 3 fields: leaf, start, array");
    const py::handle target = PyTuple_GET_ITEM(item.ptr(), 2);
    const auto number = py::cast<std::uint64_t>(py::handle(PyTuple_GET_ITEM(item.ptr(), 0)));
    check(*reader, number);
    const LeafInfo leaf = reader->leaf(number);
    auto array = py::isinstance<py::dtype>(target) ? new_array(py::reinterpret_borrow<py::dtype>(target), leaf)
                                                   : py::reinterpret_borrow<py::array>(target);
    const Result<std::uint32_t> bytes = item_bytes(leaf.dtype, leaf.detail);
    if (bytes.ok() && *bytes != static_cast<std::uint32_t>(array.itemsize()))
      throw py::value_error("the array's items have " + std::to_string(array.itemsize()) + " bytes, the leaf's " +
                            std::to_string(*bytes));
    requests.push_back({number, dims(PyTuple_GET_ITEM(item.ptr(), 1)), array_shape(array),
                        static_cast<std::byte*>(array.mutable_data()), array_strides(array), is_big_endian(array)});
    PyList_SET_ITEM(arrays.ptr(), static_cast<Py_ssize_t>(requests.size() - 1), array.release().ptr());
  }
  GilPoll poll(progress);
  std::vector<bool> written;
  const Status status = without_gil([&] { return reader->read_into(requests, deep, poll.poll(), &written); });
  for (std::size_t i = 0; !modified.is_none() && i < written.size(); ++i)
    if (written[i]) modified.attr("append")(i);
  poll.rethrow();
  raise_if_error(status);
  return arrays;
}

py::tuple verify_checkpoint(const SystemPath& path, bool deep, unsigned threads, const py::object& progress) {
  const VerifyReport report =
      GilPoll(progress).call_engine([&](const Poll& poll) { return verify(path.bytes, deep, threads, poll); });
  const auto places = [](const std::vector<Damage>& found) {
    py::list out;
    for (const Damage& d : found) out.append(py::make_tuple(SystemPath{d.file}, d.offset, d.array, text(d.reason)));
    return out;
  };
  return py::make_tuple(report.chunks, report.bytes, places(report.damaged), places(report.unreadable));
}

py::object base_or_none(const std::string& directory, const CheckpointId& id) {
  return directory.empty() ? py::object(py::none()) : py::make_tuple(directory, id.hex());
}

py::object base_of(const py::bytes& text) {
  const BaseName base = take_or_raise(decode_base(std::string_view(text)));
  return base_or_none(base.directory, base.id);
}

py::dict manifest_of(const py::bytes& text) {
  const Manifest m = take_or_raise(decode_manifest(std::string_view(text)));
  using py::arg;
  py::list files;
  files.append(py::make_tuple(m.index.name, m.index.bytes));
  for (const ManifestFile& file : m.files) files.append(py::make_tuple(file.name, file.bytes));
  return py::dict(arg("id") = m.id.hex(), arg("step") = m.step, arg("created") = m.created,
                  arg("created_nanoseconds") = m.created_nanoseconds, arg("features") = m.features,
                  arg("logical_bytes") = m.logical_bytes, arg("stored_bytes") = m.stored_bytes,
                  arg("referenced_bytes") = m.referenced_bytes, arg("arrays") = m.arrays, arg("chunks") = m.chunks,
                  arg("seconds") = m.seconds, arg("stall_seconds") = m.stall_seconds,
                  arg("base") = base_or_none(m.base_directory, m.base_id),
                  arg("parent") = m.parent ? py::object(py::str(m.parent->hex())) : py::none(),
                  arg("metadata") = m.metadata, arg("files") = files);
}

py::tuple note_of(const py::bytes& text) {
  const Note note = take_or_raise(decode_note(std::string_view(text)));
  return py::make_tuple(note.id.hex(), note.facts);
}

py::tuple notes_at(const SystemPath& path, const std::optional<std::string>& about) {
  const auto id = about ? std::optional(checkpoint_id(*about)) : std::nullopt;
  const Notes notes = call_engine([&] { return read_notes(path.bytes, id); });
  return py::make_tuple(notes.id.hex(), notes.facts, notes.number, notes.last, notes.unknown);
}

void write_notes_at(const SystemPath& path, const std::string& id, std::uint64_t after, const std::string& facts,
                    bool ahead) {
  const Notes notes{.id = checkpoint_id(id), .last = after};
  call_engine([&] { return write_notes(path.bytes, notes, facts, ahead); });
}

py::tuple intent_of(const py::bytes& text) {
  const Intent intent = take_or_raise(decode_intent(std::string_view(text)));
  const Saver saver = saver_of(intent);
  const char* state = saver == Saver::kRuns ? "runs" : saver == Saver::kGone ? "gone" : "unknown";
  return py::make_tuple(intent.id.hex(), base_or_none(intent.base_directory, intent.base_id), intent.created,
                        intent.host, intent.pid, state);
}

}  // namespace

void bind_reader(py::module_& m) {
  using py::arg;
  py::class_<PyReader>(m, "Reader")
      .def(py::init([](const SystemPath& path, unsigned threads, std::size_t coding_bytes, const std::string& io) {
             return std::make_unique<PyReader>(path, ReaderOptions{threads, coding_bytes, io_mode(io)});
           }),
           arg("path"), py::kw_only(), arg("threads") = 0, arg("coding_bytes") = 0, arg("io") = "auto")
      .def_property_readonly("manifest", [](const PyReader& r) { return r.get()->manifest(); })
      .def("leaves", &PyReader::leaves, arg("make"), arg("kinds"))
      .def("chunks", &PyReader::chunks, arg("leaf"))
      .def("stored_bytes", &PyReader::stored_bytes, arg("leaf"))
      .def("read_into", &PyReader::read_into, arg("requests"), arg("deep") = false, arg("progress") = py::none(),
           arg("modified") = py::none())
      .def("statistics",
           [](const PyReader& r) {
             const ReadStatistics s = r.get()->statistics();
             py::dict out;
             out["chunks_read"] = s.chunks_read;
             out["bytes_read"] = s.bytes_read;
             out["chunks_decoded"] = s.chunks_decoded;
             out["bytes_decoded"] = s.bytes_decoded;
             return out;
           })
      .def("close", &PyReader::close);
  m.def("base_of", &base_of, arg("text"));
  m.def("intent_of", &intent_of, arg("text"));
  m.def("manifest_of", &manifest_of, arg("text"));
  m.def("note_of", &note_of, arg("text"));
  m.def("notes_number", [](const py::bytes& name) { return notes_number(std::string_view(name)); }, arg("name"));
  m.def("notes_at", &notes_at, arg("path"), arg("about") = py::none());
  m.def("write_notes_at", &write_notes_at, arg("path"), arg("id"), arg("after"), arg("facts"), py::kw_only(),
        arg("ahead") = false);
  m.def("verify", &verify_checkpoint, arg("path"), py::kw_only(), arg("deep") = false, arg("threads") = 0,
        arg("progress") = py::none());
}

}  // namespace ostraca::python
