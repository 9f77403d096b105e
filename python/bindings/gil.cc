#include "gil.h"

#include <unistd.h>

namespace ostraca::python {

void stay() {
  while (true) ::pause();
}

bool interpreter_ends() {
#if PY_VERSION_HEX >= 0x030D0000
  return !Py_IsInitialized() || Py_IsFinalizing();
#else
  return !Py_IsInitialized() || _Py_IsFinalizing();
#endif
}

}  // namespace ostraca::python
