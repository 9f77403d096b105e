// What tests publish.
#pragma once

#include <atomic>
#include <cstdio>
#include <string>

#include "storage/storage.h"

namespace ostraca::testing {

// REQUIRES: `text` lives until it is published. Every publication has a token of its own.
inline Publication publication(std::string name, const std::string& text, Expected expected = Expected::absent(),
                               std::string retired = {}) {
  static std::atomic<unsigned> number = 0;
  char token[33];
  std::snprintf(token, sizeof(token), "%032x", ++number);
  return {std::move(name), as_bytes(text), std::move(expected), token, std::move(retired)};
}

}  // namespace ostraca::testing
