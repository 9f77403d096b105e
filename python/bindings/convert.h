// Between Python and the engine: statuses to exceptions, polling with the GIL, small conversions.
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

// Raises the Python exception of a status that is not ok. REQUIRES: the GIL.
void raise_if_error(const Status& status);

template <class T>
T take_or_raise(Result<T> result) {
  raise_if_error(result.status());
  return result.take();
}

// A Poll for engine calls made without the GIL: runs pending signal handlers and the progress callback. What Python
// raises there cancels the work; rethrow() then raises it. Lives as long as the call.
class GilPoll {
 public:
  explicit GilPoll(py::object progress) : progress_(std::move(progress)) {}  // REQUIRES: the GIL
  Poll poll();
  void rethrow();  // REQUIRES: the GIL

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

// Fresh memory, which numpy frees through a capsule that owns the buffer.
py::array_t<std::uint8_t> allocate(std::size_t nbytes);

bool is_big_endian(const py::array& array);

void bind_writer(py::module_& module);
void bind_reader(py::module_& module);

}  // namespace ostraca::python
