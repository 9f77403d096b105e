// Between Python and the engine: statuses to exceptions, paths and texts, polling with the GIL, small conversions.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "gil.h"
#include "ostraca/dims.h"
#include "ostraca/options.h"
#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca::python {

namespace py = pybind11;

// A path: bytes to the engine; to Python a str, in which bytes that are no text are surrogates (os.fsdecode). Functions
// take it as a str, bytes or os.PathLike.
struct SystemPath {
  std::string bytes;
};

// What the engine says, for people: what of its names and paths is no printable text is escaped.
py::str text(const std::string& engine_text);

// The Python exception of a status; None if it is ok.
py::object exception_or_none(const Status& status);

// Raises the Python exception of a status that is not ok. REQUIRES: the GIL.
void raise_if_error(const Status& status);

template <class T>
T take_or_raise(Result<T> result) {
  raise_if_error(result.status());
  return result.take();
}

inline void take_or_raise(const Status& status) { raise_if_error(status); }

// Calls the engine without the GIL. Raises the error of its Status or Result, or returns the Result's value. REQUIRES:
// the GIL.
template <class Work>
auto call_engine(Work&& work) {
  auto outcome = without_gil(std::forward<Work>(work));
  return take_or_raise(std::move(outcome));
}

// A Poll for engine calls made without the GIL: runs pending signal handlers and the progress callback. What Python
// raises there cancels the work; rethrow() then raises it. Lives as long as the call.
class GilPoll {
 public:
  explicit GilPoll(py::object progress) : progress_(std::move(progress)) {}  // REQUIRES: the GIL
  Poll poll();
  void rethrow();  // REQUIRES: the GIL
  // call_engine for work that takes the Poll; what Python raised meanwhile comes first.
  template <class Work>
  auto call_engine(Work&& work) {
    auto outcome = without_gil([&] { return work(poll()); });
    rethrow();
    return take_or_raise(std::move(outcome));
  }

 private:
  bool ask(std::uint64_t done, std::uint64_t total);

  PyThreadState* const thread_ = PyThreadState_Get();  // the one that will poll
  py::object progress_;                                // callable or None
  PyObject *type_ = nullptr, *value_ = nullptr, *traceback_ = nullptr;
};

IoMode io_mode(const std::string& name);
CodecPolicy codec_policy(const std::string& name);
CheckpointId checkpoint_id(const std::string& hex);
// None is empty. Negative numbers raise.
Dims dims(const py::handle& sequence);
py::tuple dims_tuple(const std::uint64_t* values, std::size_t count);

Dims array_shape(const py::array& array);
Strides array_strides(const py::array& array);

inline constexpr std::size_t kHugePageBytesMin = 1 << 20;  // from here on new arrays come from `allocate`

// Fresh memory, which numpy frees through a capsule that owns the buffer.
py::array_t<std::uint8_t> allocate(std::size_t nbytes);

bool is_big_endian(const py::array& array);

void bind_writer(py::module_& module);
void bind_reader(py::module_& module);
void bind_run(py::module_& module);

}  // namespace ostraca::python

template <>
class pybind11::detail::type_caster<ostraca::python::SystemPath> {
 public:
  PYBIND11_TYPE_CASTER(ostraca::python::SystemPath, const_name("str | bytes | os.PathLike"));
  bool load(handle source, bool /*convert*/) {
    PyObject* bytes = nullptr;
    if (PyUnicode_FSConverter(source.ptr(), &bytes) == 0) throw error_already_set();
    const auto owner = reinterpret_steal<object>(bytes);
    value.bytes.assign(PyBytes_AS_STRING(bytes), static_cast<std::size_t>(PyBytes_GET_SIZE(bytes)));
    return true;
  }
  static handle cast(const ostraca::python::SystemPath& path, return_value_policy /*policy*/, handle /*parent*/) {
    return PyUnicode_DecodeFSDefaultAndSize(path.bytes.data(), static_cast<Py_ssize_t>(path.bytes.size()));
  }
};
