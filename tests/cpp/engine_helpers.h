// Arrays in every memory layout, and one-line saves and loads of them, for the tests of engine/.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "../faults/memory_disk.h"
#include "engine/grid.h"
#include "engine/on_storage.h"
#include "ostraca/reader.h"
#include "ostraca/writer.h"

#if defined(__SANITIZE_THREAD__)
#define OSTRACA_UNDER_TSAN true
#elif defined(__has_feature)
#define OSTRACA_UNDER_TSAN __has_feature(thread_sanitizer)
#else
#define OSTRACA_UNDER_TSAN false
#endif

namespace ostraca::testing {

// Thirty times slower: what repeats the same threads over and over does so less often.
inline constexpr bool kUnderTsan = OSTRACA_UNDER_TSAN;

enum class Layout : std::uint8_t { kC, kFortran, kReversed, kGaps, kBroadcast };
inline constexpr Layout kLayouts[] = {Layout::kC, Layout::kFortran, Layout::kReversed, Layout::kGaps,
                                      Layout::kBroadcast};

enum class Fill : std::uint8_t { kNoise, kGaussian, kRepetitive, kZero };

// Strides of `layout`, the place of element [0, ..., 0], and the bytes spanned.
struct Placement {
  Strides strides;
  std::size_t origin = 0;
  std::size_t bytes = 0;
};
inline Placement place(const Dims& shape, std::uint32_t item, Layout layout) {
  Placement p;
  p.strides.resize(shape.size());
  std::int64_t stride = item * (layout == Layout::kGaps ? 3 : 1);
  for (std::size_t k = 0; k < shape.size(); ++k) {
    const std::size_t d = layout == Layout::kFortran ? k : shape.size() - 1 - k;
    p.strides[d] = layout == Layout::kReversed ? -stride : stride;
    stride *= static_cast<std::int64_t>(shape[d]) + (layout == Layout::kGaps ? 1 : 0);
  }
  p.bytes = static_cast<std::size_t>(std::max<std::int64_t>(stride, item));
  if (layout == Layout::kBroadcast && !shape.empty()) p.strides[0] = 0;
  if (layout == Layout::kReversed) p.origin = p.bytes - std::min<std::size_t>(p.bytes, item);
  for (std::size_t d = 0; d < shape.size(); ++d)
    if (shape[d] == 0) p.origin = 0;
  return p;
}

// Calls visit(address offset, number) for every element in C order.
inline void for_each_element(const Dims& shape, const Strides& strides,
                             const std::function<void(std::int64_t, std::size_t)>& visit) {
  std::uint64_t count = 1;
  for (std::uint64_t n : shape) count *= n;
  Dims index(shape.size(), 0);
  std::int64_t at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    visit(at, i);
    for (std::size_t d = shape.size(); d-- > 0;) {
      at += strides[d];
      if (++index[d] < shape[d]) break;
      at -= strides[d] * static_cast<std::int64_t>(shape[d]);
      index[d] = 0;
    }
  }
}

inline void copy_swapped(std::byte* out, const std::byte* in, std::uint32_t item, std::uint32_t unit) {
  for (std::uint32_t i = 0; i < item; i += unit)
    for (std::uint32_t k = 0; k < unit; ++k) out[i + k] = in[i + unit - 1 - k];
}

inline std::vector<std::byte> content(std::size_t bytes, Fill fill, std::uint32_t seed) {
  std::vector<std::byte> out(bytes);
  std::mt19937_64 random(seed);
  if (fill == Fill::kNoise) {
    for (std::size_t i = 0; i < bytes; i += 8) {
      const std::uint64_t value = random();
      std::memcpy(out.data() + i, &value, std::min<std::size_t>(8, bytes - i));
    }
  } else if (fill == Fill::kGaussian) {
    for (std::size_t i = 0; i + 4 <= bytes; i += 4) {  // close enough: a sum of uniforms
      const std::uint64_t r = random();
      const float value = (static_cast<float>(r & 0xffff) + static_cast<float>(r >> 16 & 0xffff) +
                           static_cast<float>(r >> 32 & 0xffff) - 98302.5f) /
                          1e7f;
      std::memcpy(out.data() + i, &value, 4);
    }
  } else if (fill == Fill::kRepetitive) {
    for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::byte>((i / 7 + seed) % 19);
  }
  return out;
}

// An array somewhere in memory, and what it means.
struct TestArray {
  std::string name;
  DType dtype = DType::kFloat32;
  std::string detail;
  bool big_endian = false;
  Dims shape;
  Strides strides;
  std::vector<std::byte> memory;
  std::size_t origin = 0;
  std::vector<std::byte> expected;  // C order, little-endian
  LeafKind kind = LeafKind::kArray;
  bool immutable = false;
  Dims global_shape = {}, offset = {}, chunk_shape = {};

  std::uint32_t item() const { return *item_bytes(dtype, detail); }
  ArraySource source(std::function<void()> on_copied = {}) const {
    return {.path = key_path_from_name(name),
            .kind = kind,
            .dtype = dtype,
            .detail = detail,
            .big_endian = big_endian,
            .shape = shape,
            .strides = strides,
            .global_shape = global_shape,
            .offset = offset,
            .chunk_shape = chunk_shape,
            .data = memory.data() + origin,
            .immutable = immutable,
            .on_copied = std::move(on_copied)};
  }
};

inline TestArray make_array(const std::string& name, DType dtype, const Dims& shape, std::uint32_t seed = 1,
                            Layout layout = Layout::kC, Fill fill = Fill::kNoise, bool big_endian = false,
                            const std::string& detail = "") {
  TestArray a{.name = name, .dtype = dtype, .detail = detail, .big_endian = big_endian, .shape = shape};
  const std::uint32_t item = a.item();
  std::size_t count = 1;
  for (std::uint64_t n : shape) count *= n;
  a.expected = content(count * item, fill, seed);
  const Placement p = place(shape, item, layout);
  a.strides = p.strides;
  a.origin = p.origin;
  a.memory = content(p.bytes + 64, Fill::kNoise, ~seed);  // the gaps hold something
  if (layout == Layout::kBroadcast && count > 0 && !shape.empty())
    for (std::size_t i = count / shape[0] * item; i < a.expected.size(); ++i)
      a.expected[i] = a.expected[i - count / shape[0] * item];
  const std::uint32_t unit = big_endian ? dtype_info(dtype).scalar_bytes : 1;
  for_each_element(shape, a.strides, [&](std::int64_t at, std::size_t i) {
    std::byte* out = a.memory.data() + static_cast<std::int64_t>(a.origin) + at;
    if (big_endian && unit > 1)
      copy_swapped(out, a.expected.data() + i * item, item, unit);
    else
      std::copy_n(a.expected.data() + i * item, item, out);
  });
  return a;
}

inline WriterOptions fixed_id(WriterOptions options = {}) {
  CheckpointId id;
  for (std::size_t i = 0; i < id.bytes.size(); ++i) id.bytes[i] = static_cast<std::uint8_t>(0xa0 + i);
  options.attempt = id;
  return options;
}

// A whole save by one process; what failed is aborted.
inline Status save_on(const std::function<std::unique_ptr<Storage>()>& storage, const std::vector<TestArray>& arrays,
                      WriterOptions options = {}, CommitOptions commit = {}) {
  commit.overwrite = options.overwrite;
  OSTRACA_ASSIGN_OR_RETURN(auto writer, create_writer(storage(), options));
  const auto run = [&]() -> Status {
    for (const TestArray& a : arrays) OSTRACA_RETURN_IF_ERROR(writer->add(a.source()));
    OSTRACA_ASSIGN_OR_RETURN(const FileReport report, writer->finish());
    const Result<std::string> manifest = commit_on(*storage(), {report}, commit);
    return manifest.ok() ? Status() : manifest.status();
  };
  const Status status = run();
  if (!status.ok() && status.code() != Code::kCommitUncertain) writer->abort();
  return status;
}
inline std::function<std::unique_ptr<Storage>()> on(const std::shared_ptr<MemoryDisk>& disk) {
  return [disk] { return std::make_unique<DiskStorage>(disk); };
}

// The number of a leaf by its display name; leaf_count() if there is none.
inline std::uint64_t find_leaf(const Reader& reader, const std::string& name) {
  std::uint64_t i = 0;
  while (i < reader.leaf_count() && *display_name(reader.leaf(i).path) != name) ++i;
  return i;
}

// Reads one box into memory of the given layout; C order, little-endian bytes come back.
inline Result<std::vector<std::byte>> read_box(Reader& reader, std::uint64_t leaf, const Dims& start, const Dims& shape,
                                               Layout layout = Layout::kC, bool big_endian = false, bool deep = false) {
  const LeafInfo info = reader.leaf(leaf);
  const std::uint32_t item = *item_bytes(info.dtype, info.detail);
  const Placement p = place(shape, item, layout);
  std::vector<std::byte> memory(p.bytes + 64, std::byte{0x5a});
  const ReadRequest request{leaf, start, shape, memory.data() + p.origin, p.strides, big_endian};
  OSTRACA_RETURN_IF_ERROR(reader.read_into({&request, 1}, deep));
  std::vector<std::byte> out;
  std::vector<bool> owned(memory.size(), false);
  const std::uint32_t unit = big_endian ? dtype_info(info.dtype).scalar_bytes : 1;
  for_each_element(shape, p.strides, [&](std::int64_t at, std::size_t) {
    const std::size_t place = p.origin + static_cast<std::size_t>(at);
    out.resize(out.size() + item);
    if (big_endian && unit > 1)
      copy_swapped(out.data() + out.size() - item, memory.data() + place, item, unit);
    else
      std::copy_n(memory.data() + place, item, out.end() - item);
    for (std::uint32_t k = 0; k < item; ++k) owned[place + k] = true;
  });
  for (std::size_t i = 0; i < memory.size(); ++i)
    if (!owned[i] && memory[i] != std::byte{0x5a}) return corruption("memory beside the box was written to");
  return out;
}

// The box of an array's C-order bytes.
inline std::vector<std::byte> cut_box(const std::vector<std::byte>& bytes, const Dims& shape, std::uint32_t item,
                                      const Dims& start, const Dims& box) {
  const auto strides = c_strides(shape, item);
  std::int64_t base = 0;
  for (std::size_t d = 0; d < shape.size(); ++d) base += static_cast<std::int64_t>(start[d]) * strides[d];
  std::vector<std::byte> out;
  for_each_element(box, strides, [&](std::int64_t at, std::size_t) {
    out.insert(out.end(), bytes.begin() + base + at, bytes.begin() + base + at + item);
  });
  return out;
}

// Empty if the checkpoint holds exactly `arrays`; otherwise what is wrong.
inline std::string differences(Reader& reader, const std::vector<TestArray>& arrays, bool deep = false) {
  if (reader.leaf_count() != arrays.size()) return "number of leaves: " + std::to_string(reader.leaf_count());
  std::vector<std::vector<std::byte>> out(arrays.size());
  std::vector<ReadRequest> requests;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const LeafInfo leaf = reader.leaf(i);
    const TestArray& a = arrays[i];
    if (leaf.path != key_path_from_name(a.name)) return "leaf " + std::to_string(i) + " is not " + a.name;
    if (leaf.dtype != a.dtype || leaf.detail != a.detail || leaf.big_endian != a.big_endian || leaf.kind != a.kind ||
        !std::ranges::equal(leaf.shape, a.shape) || leaf.bytes != a.expected.size())
      return a.name + ": its description differs";
    out[i].resize(a.expected.size(), std::byte{0xee});
    if (kind_has_data(a.kind)) requests.push_back({.leaf = i, .shape = a.shape, .data = out[i].data()});
  }
  if (Status status = reader.read_into(requests, deep); !status.ok()) return status.message();
  for (std::size_t i = 0; i < arrays.size(); ++i)
    if (out[i] != arrays[i].expected) return arrays[i].name + ": its bytes differ";
  return "";
}
inline std::string differences(std::unique_ptr<Storage> storage, const std::vector<TestArray>& arrays,
                               bool deep = false, ReaderOptions options = {}) {
  auto reader = open_reader(std::move(storage), options);
  return reader.ok() ? differences(**reader, arrays, deep) : reader.status().message();
}

// All damage as one text; empty when there is none.
inline std::string damage(Storage& storage, bool deep = true) {
  const Result<VerifyReport> report = verify_on(storage, deep, 2, {});
  if (!report.ok()) return report.status().message();
  std::string text;
  for (const auto* places : {&report->damaged, &report->unreadable})
    for (const Damage& d : *places)
      text += d.file + " @" + std::to_string(d.offset) + " " + d.array + ": " + d.reason + "\n";
  return text;
}
inline std::string damage(const std::shared_ptr<MemoryDisk>& disk, bool deep = true) {
  DiskStorage storage(disk);
  return damage(storage, deep);
}

}  // namespace ostraca::testing
