// Reader and verify. Each function: convert, release the GIL, call, convert.

#include "ostraca/reader.h"

#include <pybind11/stl.h>

#include "container/manifest.h"
#include "convert.h"

namespace ostraca::python {
namespace {

class PyReader {
 public:
  PyReader(const std::string& path, const ReaderOptions& options) {
    Result<std::unique_ptr<Reader>> reader = invalid_argument("");
    {
      const py::gil_scoped_release release;
      reader = Reader::open(path, options);
    }
    reader_ = take_or_raise(std::move(reader));
  }

  // Shared: close() in one thread must not pull the reader from under a load in another.
  std::shared_ptr<Reader> get() const {
    if (!reader_) throw py::value_error("the checkpoint is closed");
    return reader_;
  }
  void close() { reader_.reset(); }

  py::list leaves() const;
  py::list chunks(std::uint64_t leaf) const;
  std::uint64_t stored_bytes(std::uint64_t leaf) const {
    const std::shared_ptr<Reader> reader = checked(leaf);
    Result<std::uint64_t> bytes = invalid_argument("");
    {
      const py::gil_scoped_release release;
      bytes = reader->stored_bytes(leaf);
    }
    return take_or_raise(std::move(bytes));
  }
  void read_into(const py::sequence& requests, bool deep, const py::object& progress);
  std::vector<std::uint64_t> modified() const { return modified_; }

 private:
  std::shared_ptr<Reader> checked(std::uint64_t leaf) const {
    std::shared_ptr<Reader> reader = get();
    if (leaf >= reader->leaf_count()) throw py::index_error("there is no leaf number " + std::to_string(leaf));
    return reader;
  }

  std::shared_ptr<Reader> reader_;
  std::vector<std::uint64_t> modified_;  // after a failed read_into
};

py::tuple path_parts(std::string_view path) {
  const std::vector<KeyPart> parts = take_or_raise(decode_key_path(path));
  py::tuple out(parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const KeyPart& part = parts[i];
    const bool text = part.type == KeyPart::Type::kString || part.type == KeyPart::Type::kAttribute;
    out[i] = py::make_tuple(static_cast<int>(part.type),
                            text ? py::object(py::str(part.text)) : py::object(py::int_(part.integer)));
  }
  return out;
}

py::list PyReader::leaves() const {
  const std::shared_ptr<Reader> reader = get();
  py::list out(reader->leaf_count());
  for (std::uint64_t i = 0; i < reader->leaf_count(); ++i) {
    const LeafInfo leaf = reader->leaf(i);
    out[i] = py::make_tuple(path_parts(leaf.path), take_or_raise(display_name(leaf.path)), static_cast<int>(leaf.kind),
                            static_cast<int>(leaf.dtype), leaf.detail, leaf.big_endian,
                            dims_tuple(leaf.shape.data(), leaf.shape.size()), leaf.bytes);
  }
  return out;
}

py::list PyReader::chunks(std::uint64_t leaf) const {
  const std::shared_ptr<Reader> reader = checked(leaf);
  py::list out;
  for (const ChunkInfo& c : take_or_raise(reader->chunks(leaf)))
    out.append(py::make_tuple(c.file, c.offset, c.stored_bytes, c.decoded_bytes, c.codec, c.hash,
                              dims_tuple(c.origin.data(), c.origin.size()),
                              dims_tuple(c.shape.data(), c.shape.size())));
  return out;
}

void PyReader::read_into(const py::sequence& sequence, bool deep, const py::object& progress) {
  const std::shared_ptr<Reader> reader = get();
  modified_.clear();
  std::vector<ReadRequest> requests;
  requests.reserve(sequence.size());
  for (const py::handle item : sequence) {
    const auto request = py::reinterpret_borrow<py::tuple>(item);
    auto array = py::reinterpret_borrow<py::array>(request[2]);
    const auto number = py::cast<std::uint64_t>(request[0]);
    const LeafInfo leaf = checked(number)->leaf(number);
    const Result<std::uint32_t> bytes = item_bytes(leaf.dtype, leaf.detail);
    if (bytes.ok() && *bytes != static_cast<std::uint32_t>(array.itemsize()))
      throw py::value_error("the array's items have " + std::to_string(array.itemsize()) + " bytes, the leaf's " +
                            std::to_string(*bytes));
    requests.push_back({number, dims(request[1]), array_shape(array), static_cast<std::byte*>(array.mutable_data()),
                        array_strides(array), is_big_endian(array)});
  }
  GilPoll poll(progress);
  std::vector<bool> modified;
  Status status;
  {
    const py::gil_scoped_release release;
    status = reader->read_into(requests, deep, poll.poll(), &modified);
  }
  for (std::size_t i = 0; i < modified.size(); ++i)
    if (modified[i]) modified_.push_back(i);
  poll.rethrow();
  raise_if_error(status);
}

py::tuple verify_checkpoint(const std::string& path, bool deep, unsigned threads, const py::object& progress) {
  GilPoll poll(progress);
  Result<VerifyReport> report = invalid_argument("");
  {
    const py::gil_scoped_release release;
    report = verify(path, deep, threads, poll.poll());
  }
  poll.rethrow();
  raise_if_error(report.status());
  py::list damaged;
  for (const Damage& d : report->damaged) damaged.append(py::make_tuple(d.file, d.offset, d.array, d.reason));
  return py::make_tuple(report->chunks, report->bytes, damaged);
}

py::object base_of(const py::bytes& text) {
  const BaseName base = take_or_raise(decode_base(std::string_view(text)));
  return base.directory.empty() ? py::object(py::none()) : py::make_tuple(base.directory, base.id.hex());
}

}  // namespace

void bind_reader(py::module_& m) {
  using py::arg;
  py::class_<PyReader>(m, "Reader")
      .def(py::init([](const std::string& path, unsigned threads, std::size_t coding_bytes, const std::string& io) {
             return std::make_unique<PyReader>(path, ReaderOptions{threads, coding_bytes, io_mode(io)});
           }),
           arg("path"), py::kw_only(), arg("threads") = 0, arg("coding_bytes") = 0, arg("io") = "auto")
      .def_property_readonly("manifest", [](const PyReader& r) { return r.get()->manifest(); })
      .def("leaves", &PyReader::leaves)
      .def("chunks", &PyReader::chunks, arg("leaf"))
      .def("stored_bytes", &PyReader::stored_bytes, arg("leaf"))
      .def("read_into", &PyReader::read_into, arg("requests"), py::kw_only(), arg("deep") = false,
           arg("progress") = py::none())
      .def("modified", &PyReader::modified)
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
  m.def("verify", &verify_checkpoint, arg("path"), py::kw_only(), arg("deep") = false, arg("threads") = 0,
        arg("progress") = py::none());
}

}  // namespace ostraca::python
