// The GIL in threads that Python may end: who wants it after the interpreter's end has begun never gets it.
#pragma once

#include <pybind11/pybind11.h>
#ifdef __GLIBCXX__
#include <cxxabi.h>
#endif

namespace ostraca::python {

// Keeps the calling thread until the process ends.
[[noreturn]] void stay();

// Whether the interpreter's end has begun: a thread that is not the one that ends it must not want the GIL any more.
bool interpreter_ends();

// Runs what may take the GIL: PyEval_RestoreThread, or Python code that lets go of it and wants it back. Before 3.14
// Python ends such a thread by unwinding it, which no destructor and no noexcept function survives (std::terminate).
// The thread stays here instead, as it does from 3.14 on.
template <class Work>
auto in_python(Work&& work) {
#ifdef __GLIBCXX__
  try {
    return work();
  } catch (const abi::__forced_unwind&) {
    stay();
  }
#else
  return work();
#endif
}

// Lets other threads have the GIL for its lifetime. REQUIRES: the GIL.
class GilReleased {
 public:
  GilReleased() : thread_(PyEval_SaveThread()) {}
  ~GilReleased() {
    in_python([this] { PyEval_RestoreThread(thread_); });
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* const thread_;
};

// Runs `work` without the GIL. REQUIRES: the GIL.
template <class Work>
auto without_gil(Work&& work) {
  const GilReleased released;
  return work();
}

// Runs `work` with the GIL, in any thread; not at all when the interpreter's end has begun.
template <class Work>
void with_gil(Work&& work) {
  if (interpreter_ends()) return;
  in_python([&work] {
    const PyGILState_STATE state = PyGILState_Ensure();
    work();
    PyGILState_Release(state);
  });
}

// Drops a reference. An object's destructor is noexcept, but what it destroys may let go of the GIL.
inline void drop(pybind11::object& object) {
  in_python([&object] { object.release().dec_ref(); });
}

}  // namespace ostraca::python
