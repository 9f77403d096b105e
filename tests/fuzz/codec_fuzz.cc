// Three promises at once: arbitrary bytes as a payload never do more than fail; arbitrary bytes as data come back; and
// all kernels that the machine has agree with the portable one.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "base/cpu.h"
#include "base/limits.h"
#include "codec/codec.h"
#include "transform/delta_kernels.h"
#include "transform/planes_kernels.h"

namespace {

using namespace ostraca;

void require(bool condition) {
  if (!condition) std::abort();
}

void decode_arbitrary(Codec codec, Bytes stored, std::size_t decoded_bytes) {
  static ChunkDecoder decoder;
  std::vector<std::byte> out(decoded_bytes);
  const Status status = decoder.decode(codec, stored, out);
  require(status.ok() || status.code() == Code::kFormat);
}

void round_trip(Bytes data, ElementFormat format, CodecPolicy policy) {
  if (data.empty() || data.size() > kChunkBytesMax) return;
  static ChunkEncoder encoder;
  static ChunkDecoder decoder;
  std::vector<std::byte> stored(data.size()), back(data.size());
  const auto encoded = encoder.encode(data, format, policy, stored);
  require(encoded.ok() && encoded->stored_bytes <= data.size());
  require(decoder.decode(encoded->codec, Bytes(stored).first(encoded->stored_bytes), back).ok());
  require(std::equal(data.begin(), data.end(), back.begin()));
}

void kernels_agree(planes_kernels::SplitKernel split, planes_kernels::MergeKernel merge, Bytes data, unsigned width,
                   bool rotate) {
  const std::size_t count = data.size() / width;
  std::vector<std::byte> expected(data.size()), got(data.size()), back(data.size());
  std::array<std::byte*, 8> expected_planes{}, planes{};
  for (unsigned k = 0; k < width; ++k) {
    expected_planes[k] = expected.data() + k * count;
    planes[k] = got.data() + k * count;
  }
  planes_kernels::split_portable(data.data(), count, width, rotate, expected_planes.data());
  const std::size_t done = split(data.data(), count, width, rotate, planes.data());
  require(done <= count);
  for (unsigned k = 0; k < width; ++k) require(std::equal(planes[k], planes[k] + done, expected_planes[k]));
  const std::size_t merged = merge(expected_planes.data(), count, width, rotate, back.data());
  require(merged <= count);
  require(std::equal(back.data(), back.data() + merged * width, data.data()));
}

void decode_arbitrary_delta(Bytes stored, std::size_t decoded_bytes) {
  static ChunkDecoder decoder;
  const std::vector<std::byte> base(decoded_bytes, std::byte{0x3C});
  std::vector<std::byte> out(decoded_bytes);
  const Status status = decoder.decode_delta(stored, base, out);
  require(status.ok() || status.code() == Code::kFormat);
}

// The first half of the data against the second, and within a limit that may be too small.
void delta_round_trip(Bytes data, ElementFormat format, std::size_t limit) {
  const Bytes chunk = data.first(data.size() / 2), base = data.subspan(data.size() / 2, data.size() / 2);
  if (chunk.empty() || chunk.size() > kChunkBytesMax) return;
  static ChunkEncoder encoder;
  static ChunkDecoder decoder;
  std::vector<std::byte> stored(limit), back(chunk.size());
  const auto estimate = encoder.estimate(chunk, base, format);
  require(estimate.ok() && estimate->full_bytes <= chunk.size() && estimate->delta_bytes <= chunk.size());
  const auto encoded = encoder.encode_delta(chunk, base, estimate->plan, stored);
  require(encoded.ok() && encoded->stored_bytes <= std::min(limit, chunk.size()));
  if (encoded->stored_bytes == 0) return;
  require(decoder.decode_delta(Bytes(stored).first(encoded->stored_bytes), base, back).ok());
  require(std::equal(chunk.begin(), chunk.end(), back.begin()));
}

void delta_kernels_agree(delta_kernels::Kernel zigzag, delta_kernels::Kernel apply, Bytes data, unsigned width) {
  const std::size_t count = data.size() / 2 / width;
  const std::byte *elements = data.data(), *base = elements + count * width;
  std::vector<std::byte> expected(count * width), got(count * width);
  delta_kernels::zigzag_portable(elements, base, count, width, expected.data());
  const std::size_t done = zigzag(elements, base, count, width, got.data());
  require(done <= count && std::equal(got.data(), got.data() + done * width, expected.data()));
  const std::size_t applied = apply(expected.data(), base, count, width, expected.data());
  require(applied <= count && std::equal(expected.data(), expected.data() + applied * width, elements));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  if (size < 4) return 0;
  const unsigned choice = input[0];
  const std::size_t decoded_bytes = input[1] | input[2] << 8;
  const Bytes data(reinterpret_cast<const std::byte*>(input) + 3, size - 3);
  const unsigned width = 1u << (choice & 3);
  const bool flag = (choice & 4) != 0;

  decode_arbitrary(static_cast<Codec>(choice >> 3 & 3), data, decoded_bytes);
  round_trip(data, {static_cast<std::uint8_t>(width), flag}, static_cast<CodecPolicy>((choice >> 5) % 3));
  kernels_agree(planes_kernels::split_portable, planes_kernels::merge_portable, data, width, flag);
  decode_arbitrary_delta(data, decoded_bytes);
  delta_round_trip(data, {static_cast<std::uint8_t>(width), flag}, decoded_bytes);
  delta_kernels_agree(delta_kernels::zigzag_portable, delta_kernels::apply_portable, data, width);
#if defined(__x86_64__)
  if (cpu_features().avx2) delta_kernels_agree(delta_kernels::zigzag_avx2, delta_kernels::apply_avx2, data, width);
  if (cpu_features().avx512)
    delta_kernels_agree(delta_kernels::zigzag_avx512, delta_kernels::apply_avx512, data, width);
  if (cpu_features().avx2) kernels_agree(planes_kernels::split_avx2, planes_kernels::merge_avx2, data, width, flag);
  if (cpu_features().avx512)
    kernels_agree(planes_kernels::split_avx512, planes_kernels::merge_avx512, data, width, flag);
#elif defined(__aarch64__)
  delta_kernels_agree(delta_kernels::zigzag_arm64, delta_kernels::apply_arm64, data, width);
  kernels_agree(planes_kernels::split_arm64, planes_kernels::merge_arm64, data, width, flag);
#endif
  return 0;
}
