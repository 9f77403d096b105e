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
#include "ostraca/base_snapshot.h"

namespace ostraca::python {
namespace {

// Lets go of the leaves that share it and calls a Python callable, once they are all copied; engine threads own it, so
// it takes the GIL. When the interpreter has ended it keeps what it holds.
class CopiedCallback {
 public:
  CopiedCallback(py::object callable, py::tuple leaves)
      : callable_(std::move(callable)), leaves_(std::move(leaves)), left_(py::len(leaves_)) {
    ++alive_;
  }
  ~CopiedCallback() {
    with_gil([this] {
      drop(callable_);
      drop(leaves_);
    });
    (void)callable_.release();
    (void)leaves_.release();
    --alive_;
  }
  void count_down() {
    if (--left_ > 0) return;
    with_gil([this] {
      drop(leaves_);
      try {
        callable_();
      } catch (py::error_already_set& error) {
        error.discard_as_unraisable("ostraca: on_copied");
      }
    });
  }
  // Whether a thread of the engine may want the GIL, now or later.
  static bool any_alive() { return alive_ != 0; }

 private:
  static inline std::atomic<std::size_t> alive_ = 0;

  py::object callable_, leaves_;
  std::atomic<std::size_t> left_;
};

constexpr Py_ssize_t kLeafFields = 6;
constexpr Py_ssize_t kDescriptionFields = 5;

// Borrows a field of a tuple that was checked. Python's own calls: pybind11's take longer than all of the engine's work
// for a small array.
py::handle field(const py::handle& tuple, Py_ssize_t i) { return PyTuple_GET_ITEM(tuple.ptr(), i); }

void check_fields(const py::handle& tuple, Py_ssize_t count) {
  if (!PyTuple_Check(tuple.ptr()) || PyTuple_GET_SIZE(tuple.ptr()) != count)
    throw py::value_error("a leaf has 6 fields, the second of which has 5");
}

// Converts leaves. Those of one description usually follow each other, and share it: it is converted once.
class SourceConverter {
 public:
  // REQUIRES: the spec before is still alive.
  ArraySource operator()(const py::handle& spec) {
    check_fields(spec, kLeafFields);
    if (field(spec, 1).ptr() != described_) describe(field(spec, 1));
    ArraySource source = common_;
    const py::handle path = field(spec, 0);
    if (!PyBytes_Check(path.ptr())) throw py::type_error("a key path is bytes");
    source.path.assign(PyBytes_AS_STRING(path.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(path.ptr())));
    source.global_shape = dims(field(spec, 3));
    source.offset = dims(field(spec, 4));
    source.chunk_shape = dims(field(spec, 5));
    if (field(spec, 2).is_none()) return source;
    const auto array = py::reinterpret_borrow<py::array>(field(spec, 2));
    source.shape = array_shape(array);
    source.strides = array_strides(array);
    source.data = static_cast<const std::byte*>(array.data());
    if (item_bytes_ && *item_bytes_ != static_cast<std::uint32_t>(array.itemsize()))
      throw py::value_error("the array's items have " + std::to_string(array.itemsize()) + " bytes, its dtype code's " +
                            std::to_string(*item_bytes_));
    return source;
  }

 private:
  void describe(const py::handle& what) {
    check_fields(what, kDescriptionFields);
    const auto dtype = py::cast<unsigned>(field(what, 1));
    if (dtype >= kDTypeCount) throw py::value_error("unknown dtype code");
    common_ = {.kind = static_cast<LeafKind>(py::cast<int>(field(what, 0))),
               .dtype = static_cast<DType>(dtype),
               .detail = py::cast<std::string>(field(what, 2)),
               .big_endian = py::cast<bool>(field(what, 3)),
               .immutable = py::cast<bool>(field(what, 4))};
    const Result<std::uint32_t> bytes = item_bytes(common_.dtype, common_.detail);
    item_bytes_ = bytes.ok() ? std::optional(*bytes) : std::nullopt;
    described_ = what.ptr();
  }

  const PyObject* described_ = nullptr;
  ArraySource common_;  // what leaves of this description have in common
  std::optional<std::uint32_t> item_bytes_;
};

// The engine's Writer and the arrays it reads from. In a forked child there are no engine threads: nothing here may be
// used or destroyed.
class PyWriter {
 public:
  PyWriter(const SystemPath& path, WriterOptions options) {
    writer_ = call_engine([&] { return Writer::create(path.bytes, std::move(options)); });
  }
  ~PyWriter() {
    if (getpid() != owner_) {
      (void)writer_.release();  // its threads are the parent's; waiting for them would hang
    } else if (interpreter_ends() && CopiedCallback::any_alive()) {
      (void)writer_.release();  // a thread that wants the GIL for a callback would hang, and with it who waits
      (void)held_.release();    // the threads still read what it holds
    } else {
      without_gil([&] { writer_.reset(); });
    }
    drop(held_);
  }

  Writer& get() {
    if (getpid() != owner_)
      throw std::runtime_error("this writer belongs to the process that made it, not to a fork of it");
    return *writer_;
  }
  void open() {
    call_engine([&] { return get().open(); });
  }
  void add(const py::sequence& leaves, const py::object& on_copied) {
    std::shared_ptr<CopiedCallback> callback;
    Writer& writer = get();
    const py::tuple specs(leaves);
    if (on_copied.is_none()) {
      held_.append(specs);
    } else {
      callback = std::make_shared<CopiedCallback>(on_copied, specs);
    }
    SourceConverter convert;
    std::vector<ArraySource> sources;
    for (std::size_t begin = 0; begin < specs.size(); begin += kLeavesAtOnce) {
      const std::size_t end = std::min(specs.size(), begin + kLeavesAtOnce);
      for (std::size_t i = begin; i < end; ++i) {
        sources.push_back(convert(field(specs, static_cast<Py_ssize_t>(i))));
        if (callback) sources.back().on_copied = [callback] { callback->count_down(); };
      }
      call_engine([&] {
        Status status;
        for (ArraySource& source : sources)
          if (status = writer.add(std::move(source)); !status.ok()) break;
        sources.clear();
        if (end == specs.size() || !status.ok()) callback.reset();
        return status;
      });
    }
  }
  bool wait_copied(const std::optional<double>& timeout) {
    const auto deadline = std::chrono::steady_clock::now() + seconds(timeout.value_or(0));
    return GilPoll(py::none()).call_engine([&](const Poll& poll) {
      while (true) {
        auto slice = std::chrono::nanoseconds(std::chrono::milliseconds(20));
        if (timeout)
          slice = std::clamp<std::chrono::nanoseconds>(deadline - std::chrono::steady_clock::now(), {}, slice);
        Result<bool> copied = get().wait_copied(slice);
        const bool is_over = timeout && std::chrono::steady_clock::now() >= deadline;
        if (!copied.ok() || *copied || is_over || !poll(0, 0)) return copied;
      }
    });
  }
  FileReport finish(const py::object& progress) {
    GilPoll poll(progress);
    auto report = without_gil([&] { return get().finish(poll.poll()); });
    let_go();
    poll.rethrow();
    return take_or_raise(std::move(report));
  }
  std::shared_ptr<BaseSnapshot> snapshot() {
    return call_engine([&] { return get().snapshot(); });
  }
  void abort() {
    without_gil([&] { get().abort(); });
    let_go();
  }

 private:
  void let_go() {
    drop(held_);
    held_ = py::list();
  }
  static std::chrono::nanoseconds seconds(double value) {
    constexpr double kForEver = 1e9;  // seconds; more would overflow the clock
    return std::chrono::nanoseconds(static_cast<std::int64_t>(std::clamp(value, 0.0, kForEver) * 1e9));
  }

  static constexpr std::size_t kLeavesAtOnce = 4096;  // that are converted before the engine, without the GIL, has them

  const pid_t owner_ = getpid();
  py::list held_;  // the leaves whose memory the engine reads, but those that a callback holds
  std::unique_ptr<Writer> writer_;
};

WriterOptions writer_options(std::uint32_t process_index, std::uint32_t process_count,
                             const std::optional<std::string>& attempt, const std::string& codec, const std::string& io,
                             unsigned threads, std::size_t coding_bytes, std::optional<std::size_t> staging_bytes,
                             std::size_t keep_bytes, std::shared_ptr<BaseSnapshot> base, const py::object& chunk_shape,
                             bool overwrite, bool opens_later, std::optional<std::uint64_t> file_bytes) {
  WriterOptions options{.process_index = process_index,
                        .process_count = process_count,
                        .codec = codec_policy(codec),
                        .io = io_mode(io),
                        .threads = threads,
                        .coding_bytes = coding_bytes,
                        .staging_bytes = staging_bytes,
                        .keep_bytes = keep_bytes,
                        .base = std::move(base),
                        .chunk_shape = dims(chunk_shape),
                        .overwrite = overwrite,
                        .opens_later = opens_later,
                        .file_bytes = file_bytes};
  if (attempt) options.attempt = checkpoint_id(*attempt);
  return options;
}

// Python holds it for as long as commit() runs; any thread may read it meanwhile.
struct CommitProgress {
  std::atomic<std::uint64_t> files = 0;
};

std::string commit_reports(const SystemPath& path, const std::vector<FileReport>& reports,
                           std::optional<std::int64_t> step, const std::optional<std::string>& metadata, bool overwrite,
                           double seconds, double stall_seconds, const std::optional<std::string>& replaces,
                           const std::optional<std::string>& parent, std::int64_t created_ns,
                           std::int64_t created_after_ns, CommitProgress* progress) {
  CommitOptions options{.step = step,
                        .metadata = metadata.value_or("null"),
                        .overwrite = overwrite,
                        .seconds = seconds,
                        .stall_seconds = stall_seconds,
                        .created_ns = created_ns,
                        .created_after_ns = created_after_ns};
  if (replaces) options.replaces = checkpoint_id(*replaces);
  if (parent) options.parent = checkpoint_id(*parent);
  if (progress != nullptr) options.files_checked = &progress->files;
  return call_engine([&] { return commit(path.bytes, reports, options); });
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
  py::class_<CommitProgress>(m, "CommitProgress")
      .def(py::init())
      .def_property_readonly("files", [](const CommitProgress& p) { return p.files.load(); });
  py::class_<BaseSnapshot, std::shared_ptr<BaseSnapshot>>(m, "BaseSnapshot")
      .def(py::init([](const SystemPath& path, std::uint64_t budget_bytes) {
             return call_engine([&] { return BaseSnapshot::open(path.bytes, budget_bytes); });
           }),
           arg("path"), arg("budget_bytes"))
      .def_property_readonly("path", [](const BaseSnapshot& b) { return SystemPath{b.path()}; })
      .def_property_readonly("id", [](const BaseSnapshot& b) { return b.id().hex(); })
      .def_property_readonly("kept_bytes", &BaseSnapshot::kept_bytes);
  py::class_<PyWriter>(m, "Writer")
      .def(py::init([](const SystemPath& path, std::uint32_t process_index, std::uint32_t process_count,
                       const std::optional<std::string>& attempt, const std::string& codec, const std::string& io,
                       unsigned threads, std::size_t coding_bytes, std::optional<std::size_t> staging_bytes,
                       std::size_t keep_bytes, std::shared_ptr<BaseSnapshot> base, const py::object& chunk_shape,
                       bool overwrite, bool opens_later, std::optional<std::uint64_t> file_bytes) {
             return std::make_unique<PyWriter>(
                 path,
                 writer_options(process_index, process_count, attempt, codec, io, threads, coding_bytes, staging_bytes,
                                keep_bytes, std::move(base), chunk_shape, overwrite, opens_later, file_bytes));
           }),
           arg("path"), py::kw_only(), arg("process_index") = 0, arg("process_count") = 1, arg("attempt") = py::none(),
           arg("codec") = "auto", arg("io") = "auto", arg("threads") = 0, arg("coding_bytes") = 0,
           arg("staging_bytes") = py::none(), arg("keep_bytes") = 0, arg("base") = py::none(),
           arg("chunk_shape") = py::none(), arg("overwrite") = false, arg("opens_later") = false,
           arg("file_bytes") = py::none())
      .def_property_readonly("attempt", [](PyWriter& w) { return w.get().attempt().hex(); })
      .def("open", &PyWriter::open)
      .def("add", &PyWriter::add, arg("leaves"), arg("on_copied") = py::none())
      .def(
          "seal", [](PyWriter& w) { w.get().seal(); }, py::call_guard<GilReleased>())
      .def("copied", [](PyWriter& w) { return w.get().copied(); })
      .def("wait_copied", &PyWriter::wait_copied, arg("timeout") = py::none())
      .def(
          "renew", [](PyWriter& w) { w.get().renew(); }, py::call_guard<GilReleased>())
      .def("finish", &PyWriter::finish, arg("progress") = py::none())
      .def("snapshot", &PyWriter::snapshot)
      .def("cancel", [](PyWriter& w) { w.get().cancel(); })
      .def("abort", &PyWriter::abort)
      .def("progress", [](PyWriter& w) { return std::pair(w.get().bytes_done(), w.get().bytes_total()); });
  m.def("commit", &commit_reports, arg("path"), arg("reports"), py::kw_only(), arg("step") = py::none(),
        arg("metadata") = py::none(), arg("overwrite") = false, arg("seconds") = 0.0, arg("stall_seconds") = 0.0,
        arg("replaces") = py::none(), arg("parent") = py::none(), arg("created_ns") = 0, arg("created_after_ns") = 0,
        arg("progress") = nullptr);
}

}  // namespace ostraca::python
