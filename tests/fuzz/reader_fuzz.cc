// A checkpoint edited from within, its checksums made right again, so that arbitrary tables, directories, payloads and
// manifests reach the parsers: opening, verifying, loading and slicing never do more than fail, and never write outside
// the memory they were given.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <random>

#include "../faults/reseal.h"
#include "base/checked.h"
#include "engine/on_storage.h"

namespace {

using namespace ostraca;
using namespace ostraca::testing;

constexpr std::uint64_t kLeafBytesMax = 1 << 20;  // larger leaves are sliced
constexpr std::size_t kGuardBytes = 64;

void require(bool condition) {
  if (!condition) std::abort();
}

// Several dtypes, packs, grids in two dimensions, raw, zstd and planes.
CheckpointParts make_checkpoint() {
  const auto disk = std::make_shared<MemoryDisk>();
  auto writer = create_writer(std::make_unique<DiskStorage>(disk), {.threads = 1, .chunk_shape = {16, 20}}).take();
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> floats;
  for (const std::size_t count : {40u * 50u, 300u, 7u}) {
    floats.emplace_back(count);
    for (float& value : floats.back()) value = normal(random);
  }
  std::vector<std::uint8_t> text(500);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::uint8_t>("the quick brown fox"[i % 19]);
  std::vector<std::uint16_t> noise(200);
  for (auto& value : noise) value = static_cast<std::uint16_t>(random());
  const auto add = [&](const char* name, DType dtype, std::vector<std::uint64_t> shape, const void* data,
                       bool big = false) {
    require(writer
                ->add({.path = key_path_from_name(name),
                       .dtype = dtype,
                       .big_endian = big,
                       .shape = std::move(shape),
                       .data = static_cast<const std::byte*>(data)})
                .ok());
  };
  add("grid", DType::kFloat32, {40, 50}, floats[0].data());
  add("a/b", DType::kFloat32, {300}, floats[1].data());
  add("a/c", DType::kFloat32, {7}, floats[2].data());
  add("text", DType::kInt8, {500}, text.data());
  add("noise", DType::kUint16, {10, 20}, noise.data(), true);
  require(writer->add({.path = key_path_from_name("none"), .kind = LeafKind::kNone}).ok());
  const auto report = writer->finish();
  require(report.ok());
  DiskStorage storage(disk);
  require(commit_on(storage, {*report}, {.step = 1, .metadata = R"({"k":[1,2.5,"v"]})"}).ok());
  CheckpointParts parts = CheckpointParts::open(*disk);
  parts.seal_and_write(*disk);  // what open() took apart, seal_and_write() puts together
  require(open_reader(std::make_unique<DiskStorage>(disk), {}).ok());
  return parts;
}

// Takes values off the input; zeros when it is used up.
struct Input {
  const std::uint8_t* data;
  std::size_t size;

  std::uint64_t take(unsigned bytes) {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < bytes && size > 0; ++i, --size) value |= std::uint64_t{*data++} << 8 * i;
    return value;
  }
};

void edit(ByteVector& part, Input& input, bool may_resize) {
  const auto how = input.take(1);
  const std::size_t at = input.take(2);
  if (may_resize && how % 8 == 7) return part.resize(std::min<std::size_t>(at, 1 << 16));
  if (part.empty()) return;
  const unsigned width = 1u << (how % 4);
  std::uint64_t value = input.take(width);
  if (how & 8) value = ~std::uint64_t{0} - value;  // near the top: where sums overflow
  for (unsigned i = 0; i < width; ++i) part[(at + i) % part.size()] = static_cast<std::byte>(value >> 8 * i);
}

void read_leaf(Reader& reader, std::uint64_t number, Input& input) {
  const LeafInfo leaf = reader.leaf(number);
  if (!kind_has_data(leaf.kind)) return;
  const Result<std::uint32_t> item = item_bytes(leaf.dtype, leaf.detail);
  require(item.ok());
  ReadRequest request{
      .leaf = number, .start = {}, .shape = {leaf.shape.begin(), leaf.shape.end()}, .big_endian = (number & 1) != 0};
  if (leaf.bytes > kLeafBytesMax || (input.take(1) & 1)) {  // one corner or another
    std::uint64_t bytes = *item;
    request.start.assign(leaf.shape.size(), 0);
    for (std::size_t d = 0; d < leaf.shape.size(); ++d) {
      const std::uint64_t room = std::max<std::uint64_t>(1, 4096 / std::max<std::uint64_t>(bytes, 1));
      if (leaf.shape[d] > 0) request.start[d] = input.take(4) % leaf.shape[d];
      request.shape[d] = std::min(leaf.shape[d] - request.start[d], room);
      bytes *= request.shape[d];
    }
  }
  std::uint64_t bytes = 0;
  require(checked_volume(request.shape, *item, &bytes) && bytes <= 2 * kLeafBytesMax);
  std::vector<std::byte> out(kGuardBytes + bytes + kGuardBytes, std::byte{0x77});
  request.data = out.data() + kGuardBytes;
  (void)reader.read_into({&request, 1}, (number & 2) != 0);
  for (std::size_t i = 0; i < kGuardBytes; ++i)
    require(out[i] == std::byte{0x77} && out[out.size() - 1 - i] == std::byte{0x77});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const CheckpointParts pristine = make_checkpoint();
  CheckpointParts parts = pristine;
  Input input{bytes, size};
  // Edits of what seal() recomputes come after it.
  struct Late {
    ByteVector* part;
    Input at;
  };
  std::vector<Late> late_data, late_index;
  for (int edits = static_cast<int>(input.take(1) % 8); edits > 0 && input.size > 0; --edits) {
    switch (input.take(1) % 9) {
      case 0:
        edit(parts.data.body, input, false);
        break;
      case 1:
        edit(parts.data.table, input, true);
        break;
      case 2:
        edit(parts.data.directory, input, true);
        break;
      case 3:
      case 4:
        edit(parts.index.directory, input, true);
        break;
      case 5:
        late_data.push_back({&parts.data.footer, {input.data, input.size}}), (void)input.take(6);
        break;
      case 6:
        late_data.push_back({&parts.data.header, {input.data, input.size}}), (void)input.take(6);
        break;
      case 7:
        late_index.push_back({input.take(1) & 1 ? &parts.index.footer : &parts.index.header, {input.data, input.size}}),
            (void)input.take(6);
        break;
      default:
        parts.manifest.process_count = static_cast<std::uint32_t>(input.take(4));
        break;
    }
  }
  parts.data.seal();
  for (Late& late : late_data) edit(*late.part, late.at, false);
  parts.data.sign();
  const bool keep_edit_of_record = input.take(1) & 1;
  if (!keep_edit_of_record) parts.promise_data();
  parts.index.seal();
  for (Late& late : late_index) edit(*late.part, late.at, false);
  parts.index.sign();
  parts.promise_index();

  const auto disk = std::make_shared<MemoryDisk>();
  parts.write(*disk);
  disk->set_cached(input.take(1) & 1);
  DiskStorage storage(disk);
  const Result<VerifyReport> report = verify_on(storage, (input.take(1) & 1) != 0, 1, {});
  auto reader = open_reader(std::make_unique<DiskStorage>(disk), {.threads = 1});
  if (!reader.ok()) {
    require(!report.ok() || !report->ok());  // verify does not praise what cannot be opened
    return 0;
  }
  for (std::uint64_t i = 0; i < std::min<std::uint64_t>((*reader)->leaf_count(), 32); ++i) {
    if ((*reader)->leaf(i).bytes <= 64 * kLeafBytesMax) {
      (void)(*reader)->chunks(i);
      (void)(*reader)->stored_bytes(i);
    }
    read_leaf(**reader, i, input);
  }
  return 0;
}
