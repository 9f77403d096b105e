#include "convert.h"

#include <memory>

#include "base/buffer.h"

namespace ostraca::python {
namespace {

const char* exception_name(Code code) {
  switch (code) {
    case Code::kCorruption:
      return "CorruptionError";
    case Code::kFormat:
      return "FormatError";
    case Code::kNotFound:
      return "NotFoundError";
    case Code::kExists:
      return "ExistsError";
    case Code::kMismatch:
      return "MismatchError";
    case Code::kCoordination:
      return "CoordinationError";
    case Code::kCommitUncertain:
      return "CommitUncertainError";
    case Code::kCancelled:
      return "CancelledError";
    default:
      return nullptr;
  }
}

py::object exception_of(const Status& status) {
  const py::str message = text(status.message());
  if (const char* name = exception_name(status.code()))
    return py::module_::import("ostraca.errors").attr(name)(message);
  if (status.code() == Code::kOutOfMemory) return py::reinterpret_borrow<py::object>(PyExc_MemoryError)(message);
  if (status.code() != Code::kSystem) return py::reinterpret_borrow<py::object>(PyExc_ValueError)(message);
  // OSError picks its subclass (PermissionError, ...) from errno; the message's own words go into strerror.
  const py::object os_error = py::reinterpret_borrow<py::object>(PyExc_OSError);
  return status.os_error() ? os_error(status.os_error(), message, SystemPath{status.path()}) : os_error(message);
}

}  // namespace

py::str text(const std::string& engine_text) {
  PyObject* const decoded =
      PyUnicode_DecodeUTF8(engine_text.data(), static_cast<Py_ssize_t>(engine_text.size()), "surrogateescape");
  if (!decoded) throw py::error_already_set();
  return py::module_::import("ostraca.printing").attr("escaped")(py::reinterpret_steal<py::str>(decoded));
}

py::object exception_or_none(const Status& status) { return status.ok() ? py::none() : exception_of(status); }

void raise_if_error(const Status& status) {
  if (status.ok()) return;
  const py::object exception = in_python([&status] { return exception_of(status); });
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  throw py::error_already_set();
}

Poll GilPoll::poll() {
  return [this](std::uint64_t done, std::uint64_t total) {
    return in_python([&] {
      PyEval_RestoreThread(thread_);
      const bool go_on = ask(done, total);
      PyEval_SaveThread();
      return go_on;
    });
  };
}

// Keeps what Python raises for rethrow().
bool GilPoll::ask(std::uint64_t done, std::uint64_t total) {
  if (type_) return false;
  try {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!progress_.is_none()) progress_(done, total);
    return true;
  } catch (py::error_already_set& error) {
    error.restore();
    PyErr_Fetch(&type_, &value_, &traceback_);
    return false;
  }
}

void GilPoll::rethrow() {
  if (!type_) return;
  PyErr_Restore(std::exchange(type_, nullptr), std::exchange(value_, nullptr), std::exchange(traceback_, nullptr));
  throw py::error_already_set();
}

IoMode io_mode(const std::string& name) {
  if (name == "auto") return IoMode::kAuto;
  if (name == "direct") return IoMode::kDirect;
  if (name == "buffered") return IoMode::kBuffered;
  throw py::value_error("io is '" + name + "', not one of 'auto', 'direct', 'buffered'");
}

CodecPolicy codec_policy(const std::string& name) {
  if (name == "auto") return CodecPolicy::kAuto;
  if (name == "raw") return CodecPolicy::kRaw;
  if (name == "zstd") return CodecPolicy::kZstd;
  throw py::value_error("codec is '" + name + "', not one of 'auto', 'raw', 'zstd'");
}

CheckpointId checkpoint_id(const std::string& hex) { return take_or_raise(CheckpointId::from_hex(hex)); }

Dims dims(const py::handle& sequence) {
  if (sequence.is_none()) return {};
  Dims out(py::len(sequence));
  std::size_t d = 0;
  for (const py::handle item : py::reinterpret_borrow<py::sequence>(sequence)) out[d++] = py::cast<std::uint64_t>(item);
  return out;
}

py::tuple dims_tuple(const std::uint64_t* values, std::size_t count) {
  py::tuple out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = py::int_(values[i]);
  return out;
}

Dims array_shape(const py::array& array) { return {array.shape(), array.shape() + array.ndim()}; }

Strides array_strides(const py::array& array) { return {array.strides(), array.strides() + array.ndim()}; }

py::array_t<std::uint8_t> allocate(std::size_t nbytes) {
  constexpr char kPurpose[] = "an array (load less at a time, or into= memory that is there)";
  auto buffer = std::make_unique<AlignedBuffer>(take_or_raise(AlignedBuffer::allocate(nbytes, kPurpose)));
  auto* data = reinterpret_cast<std::uint8_t*>(buffer->data());
  const py::capsule owner(buffer.release(), [](void* p) { delete static_cast<AlignedBuffer*>(p); });
  return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(nbytes), data, owner);
}

bool is_big_endian(const py::array& array) { return array.dtype().byteorder() == '>'; }

}  // namespace ostraca::python
