// Writer and commit. Each function: convert, release the GIL, call, convert.

#include "ostraca/writer.h"

#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>

#include "convert.h"

namespace ostraca::python {
namespace {

// Calls a Python callable once all sources that share it are copied; engine threads own it, so it takes the GIL.
class CopiedCallback {
 public:
  CopiedCallback(py::object callable, std::size_t sources) : callable_(std::move(callable)), left_(sources) {}
  ~CopiedCallback() {
    if (finalizing()) {
      (void)callable_.release();
      return;
    }
    const py::gil_scoped_acquire gil;
    callable_ = {};
  }
  void count_down() {
    if (--left_ > 0 || finalizing()) return;
    const py::gil_scoped_acquire gil;
    try {
      callable_();
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("ostraca: on_copied");
    }
  }

 private:
  // Then a thread that asks for the GIL is ended, or hangs.
  static bool finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
  }

  py::object callable_;
  std::atomic<std::size_t> left_;
};

ArraySource array_source(const py::tuple& spec) {
  if (spec.size() != 9) throw py::value_error("a leaf has 9 fields, not " + std::to_string(spec.size()));
  ArraySource source{.path = py::cast<std::string>(spec[0]),
                     .kind = static_cast<LeafKind>(py::cast<int>(spec[1])),
                     .dtype = static_cast<DType>(py::cast<unsigned>(spec[2])),
                     .detail = py::cast<std::string>(spec[3]),
                     .big_endian = py::cast<bool>(spec[4]),
                     .global_shape = dims(spec[6]),
                     .offset = dims(spec[7]),
                     .immutable = py::cast<bool>(spec[8])};
  if (py::cast<unsigned>(spec[2]) >= kDTypeCount) throw py::value_error("unknown dtype code");
  if (spec[5].is_none()) return source;
  const auto array = py::reinterpret_borrow<py::array>(spec[5]);
  source.shape = array_shape(array);
  source.strides = array_strides(array);
  source.data = static_cast<const std::byte*>(array.data());
  const Result<std::uint32_t> item = item_bytes(source.dtype, source.detail);
  if (item.ok() && *item != static_cast<std::uint32_t>(array.itemsize()))
    throw py::value_error("the array's items have " + std::to_string(array.itemsize()) + " bytes, its dtype code's " +
                          std::to_string(*item));
  return source;
}

// The engine's Writer and the arrays it reads from. In a forked child there are no engine threads: nothing here may be
// used or destroyed.
class PyWriter {
 public:
  PyWriter(const std::string& path, WriterOptions options) {
    const py::gil_scoped_release release;
    Result<std::unique_ptr<Writer>> writer = Writer::create(path, std::move(options));
    if (writer.ok()) {
      writer_ = writer.take();
      return;
    }
    const py::gil_scoped_acquire acquire;
    raise_if_error(writer.status());
  }
  ~PyWriter() {
    if (getpid() != owner_) {
      (void)writer_.release();  // its threads are the parent's; waiting for them would hang
      return;
    }
    const py::gil_scoped_release release;
    writer_.reset();
  }

  Writer& get() {
    if (getpid() != owner_)
      throw std::runtime_error("this writer belongs to the process that made it, not to a fork of it");
    return *writer_;
  }
  void add(const py::sequence& leaves, const py::object& on_copied) {
    std::shared_ptr<CopiedCallback> callback;
    if (!on_copied.is_none()) callback = std::make_shared<CopiedCallback>(on_copied, leaves.size());
    std::vector<ArraySource> sources;
    sources.reserve(leaves.size());
    for (const py::handle leaf : leaves) {
      sources.push_back(array_source(py::reinterpret_borrow<py::tuple>(leaf)));
      if (callback) sources.back().on_copied = [callback] { callback->count_down(); };
      held_.append(py::reinterpret_borrow<py::tuple>(leaf)[5]);
    }
    Status status;
    {
      const py::gil_scoped_release release;
      for (ArraySource& source : sources)
        if (status = get().add(std::move(source)); !status.ok()) break;
      sources.clear();
      callback.reset();
    }
    raise_if_error(status);
  }
  bool wait_copied(const std::optional<double>& timeout) {
    const auto deadline = std::chrono::steady_clock::now() + seconds(timeout.value_or(0));
    GilPoll poll{py::none()};
    Result<bool> copied = false;
    {
      const py::gil_scoped_release release;
      do {
        auto slice = std::chrono::nanoseconds(std::chrono::milliseconds(20));
        if (timeout)
          slice = std::clamp<std::chrono::nanoseconds>(deadline - std::chrono::steady_clock::now(), {}, slice);
        copied = get().wait_copied(slice);
        if (!copied.ok() || *copied) break;
      } while ((!timeout || std::chrono::steady_clock::now() < deadline) && poll.poll()(0, 0));
    }
    poll.rethrow();
    return take_or_raise(std::move(copied));
  }
  FileReport finish(const py::object& progress) {
    GilPoll poll(progress);
    Result<FileReport> report = invalid_argument("");
    {
      const py::gil_scoped_release release;
      report = get().finish(poll.poll());
    }
    held_ = py::list();
    poll.rethrow();
    return take_or_raise(std::move(report));
  }
  void abort() {
    {
      const py::gil_scoped_release release;
      get().abort();
    }
    held_ = py::list();
  }

 private:
  static std::chrono::nanoseconds seconds(double value) {
    constexpr double kForEver = 1e9;  // seconds; more would overflow the clock
    return std::chrono::nanoseconds(static_cast<std::int64_t>(std::clamp(value, 0.0, kForEver) * 1e9));
  }

  const pid_t owner_ = getpid();
  py::list held_;  // the arrays whose memory the engine reads
  std::unique_ptr<Writer> writer_;
};

WriterOptions writer_options(std::uint32_t process_index, std::uint32_t process_count,
                             const std::optional<std::string>& attempt, const std::string& codec, const std::string& io,
                             unsigned threads, std::size_t coding_bytes, std::optional<std::size_t> staging_bytes,
                             const py::object& chunk_shape, bool overwrite) {
  WriterOptions options{.process_index = process_index,
                        .process_count = process_count,
                        .codec = codec_policy(codec),
                        .io = io_mode(io),
                        .threads = threads,
                        .coding_bytes = coding_bytes,
                        .staging_bytes = staging_bytes,
                        .chunk_shape = dims(chunk_shape),
                        .overwrite = overwrite};
  if (attempt) options.attempt = checkpoint_id(*attempt);
  return options;
}

std::string commit_reports(const std::string& path, const std::vector<FileReport>& reports,
                           std::optional<std::int64_t> step, const std::optional<std::string>& metadata, bool overwrite,
                           double seconds, double stall_seconds) {
  const CommitOptions options{step, metadata.value_or("null"), overwrite, seconds, stall_seconds};
  Result<std::string> manifest = invalid_argument("");
  {
    const py::gil_scoped_release release;
    manifest = commit(path, reports, options);
  }
  return take_or_raise(std::move(manifest));
}

}  // namespace

void bind_writer(py::module_& m) {
  using py::arg;
  py::class_<FileReport>(m, "FileReport")
      .def_readonly("process_index", &FileReport::process_index)
      .def_property_readonly("attempt", [](const FileReport& r) { return r.attempt.hex(); })
      .def_property_readonly("file", &FileReport::file_name)
      .def_readonly("file_bytes", &FileReport::file_bytes)
      .def_readonly("logical_bytes", &FileReport::logical_bytes)
      .def("to_bytes", [](const FileReport& r) { return py::bytes(r.to_bytes()); })
      .def_static("from_bytes",
                  [](const py::bytes& data) { return take_or_raise(FileReport::from_bytes(std::string_view(data))); });
  py::class_<PyWriter>(m, "Writer")
      .def(py::init([](const std::string& path, std::uint32_t process_index, std::uint32_t process_count,
                       const std::optional<std::string>& attempt, const std::string& codec, const std::string& io,
                       unsigned threads, std::size_t coding_bytes, std::optional<std::size_t> staging_bytes,
                       const py::object& chunk_shape, bool overwrite) {
             return std::make_unique<PyWriter>(
                 path, writer_options(process_index, process_count, attempt, codec, io, threads, coding_bytes,
                                      staging_bytes, chunk_shape, overwrite));
           }),
           arg("path"), py::kw_only(), arg("process_index") = 0, arg("process_count") = 1, arg("attempt") = py::none(),
           arg("codec") = "auto", arg("io") = "auto", arg("threads") = 0, arg("coding_bytes") = 0,
           arg("staging_bytes") = py::none(), arg("chunk_shape") = py::none(), arg("overwrite") = false)
      .def_property_readonly("attempt", [](PyWriter& w) { return w.get().attempt().hex(); })
      .def("add", &PyWriter::add, arg("leaves"), arg("on_copied") = py::none())
      .def(
          "seal", [](PyWriter& w) { w.get().seal(); }, py::call_guard<py::gil_scoped_release>())
      .def("copied", [](PyWriter& w) { return w.get().copied(); })
      .def("wait_copied", &PyWriter::wait_copied, arg("timeout") = py::none())
      .def("finish", &PyWriter::finish, arg("progress") = py::none())
      .def("cancel", [](PyWriter& w) { w.get().cancel(); })
      .def("abort", &PyWriter::abort)
      .def("progress", [](PyWriter& w) { return std::pair(w.get().bytes_done(), w.get().bytes_total()); });
  m.def("commit", &commit_reports, arg("path"), arg("reports"), py::kw_only(), arg("step") = py::none(),
        arg("metadata") = py::none(), arg("overwrite") = false, arg("seconds") = 0.0, arg("stall_seconds") = 0.0);
}

}  // namespace ostraca::python
