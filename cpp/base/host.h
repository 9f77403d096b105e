// This machine's name, as intents carry it.
#pragma once

#include <unistd.h>

#include <string>

namespace ostraca {

inline std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "";
}

}  // namespace ostraca
