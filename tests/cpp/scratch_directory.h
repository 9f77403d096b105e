// A directory that goes away with its test, and bytes to put into it.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/bytes.h"

namespace ostraca::testing {

class ScratchDirectory {
 public:
  explicit ScratchDirectory(const std::string& under = ::testing::TempDir()) : path_(under + "/ostraca-test-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "no scratch directory under " << under;
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The bytes that belong at `offset` of a test file: no two blocks look alike.
inline void pattern(std::uint64_t offset, MutableBytes out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t at = offset + i;
    out[i] = static_cast<std::byte>((at * 0x9E3779B97F4A7C15u) >> 56);
  }
}

}  // namespace ostraca::testing
