// What tests of storages write, publish and read.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <string>

#include "base/limits.h"
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

inline void write_text(Storage& storage, const std::string& name, const std::string& text) {
  const Status status = storage.write_small(name, as_bytes(text));
  ASSERT_TRUE(status.ok()) << status.message();
}

inline std::string read_text(Storage& storage, const std::string& name) {
  const Result<std::string> text = storage.read_small(name, kMiB);
  return text.ok() ? *text : "error: " + text.status().message();
}

}  // namespace ostraca::testing
