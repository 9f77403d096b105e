#include "codec/chooser.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/limits.h"
#include "transform/delta.h"
#include "transform/planes.h"

namespace ostraca {
namespace {

// The sample: short windows all over the chunk, for statistics.
constexpr std::size_t kSampleWindows = 16;
constexpr std::size_t kSampleWindowElements = 256;
constexpr std::size_t kSampleElements = kSampleWindows * kSampleWindowElements;

// The probe: long windows that are really compressed, since matches need neighbours. Floats rarely gain from it, so
// only a suspicion starts it; anything else is worth a closer look, in windows that show more of what is far apart.
constexpr std::size_t kProbeBytes = 64 * kKiB;
constexpr std::size_t kFloatProbeWindows = 4;
constexpr std::size_t kOtherProbeWindows = 2;
// Of differences of floats only runs of zeros are looked for, which are short: less of them tells as much.
constexpr std::size_t kDeltaProbeBytes = 16 * kKiB;
constexpr std::size_t kDeltaProbeWindows = 8;
constexpr double kSuspiciousRepeats = 0.03;
constexpr double kFloatGain = 0.95;  // match search must get below this share of entropy coding alone
constexpr double kOtherGain = 0.98;

// From here on, coding is in vain: 7.875 is where it begins to be worthwhile, 4096 samples measure 0.045 too little,
// and a Huffman code needs some 0.03 more than the entropy. (Random bytes measure 7.94 or more.)
constexpr double kRandomBits = 7.8;
constexpr std::size_t kSmallest = 128;  // bytes; below, headers eat what is gained

// n * log2(n) for every count a sample can have.
const std::vector<float>& n_log_n() {
  static const std::vector<float> table = [] {
    std::vector<float> t(kSampleElements + 1, 0.0f);
    for (std::size_t n = 2; n < t.size(); ++n) t[n] = static_cast<float>(static_cast<double>(n) * std::log2(n));
    return t;
  }();
  return table;
}

// Bits per byte of `data`, at most kSampleElements long. Four histograms, so that runs of one value do not wait for
// their own counter.
double entropy_bits(Bytes data) {
  std::uint16_t counts[4][256] = {};
  std::size_t i = 0;
  for (; i + 4 <= data.size(); i += 4) {
    ++counts[0][std::to_integer<unsigned>(data[i])];
    ++counts[1][std::to_integer<unsigned>(data[i + 1])];
    ++counts[2][std::to_integer<unsigned>(data[i + 2])];
    ++counts[3][std::to_integer<unsigned>(data[i + 3])];
  }
  for (; i < data.size(); ++i) ++counts[0][std::to_integer<unsigned>(data[i])];
  const std::vector<float>& table = n_log_n();
  double sum = 0;
  for (unsigned v = 0; v < 256; ++v) sum += table[counts[0][v] + counts[1][v] + counts[2][v] + counts[3][v]];
  return (table[data.size()] - sum) / static_cast<double>(data.size());
}

// Share of the places, every `step` bytes, whose next eight bytes began at an earlier place too. A small table
// forgets; that is good enough for a suspicion.
double repeated_share(Bytes data, std::size_t step) {
  constexpr unsigned kHashBits = 12;
  std::uint64_t seen[1u << kHashBits] = {};
  std::size_t places = 0, repeats = 0;
  for (std::size_t i = 0; i + 8 <= data.size(); i += step, ++places) {
    // Plus one: an empty slot must not look like eight zero bytes.
    const std::uint64_t word = load_le<std::uint64_t>(data.data() + i) + 1;
    std::uint64_t& slot = seen[(word * 0x9E3779B97F4A7C15u) >> (64 - kHashBits)];
    repeats += slot == word;
    slot = word;
  }
  return places == 0 ? 0 : static_cast<double>(repeats) / static_cast<double>(places);
}

bool all_equal(Bytes data, std::size_t period) {
  return std::memcmp(data.data(), data.data() + period, data.size() - period) == 0;
}

}  // namespace

void Chooser::gather(Bytes chunk, Bytes base, unsigned width, std::size_t windows, std::size_t window_elements) {
  const auto copy = [&](Bytes from, std::vector<std::byte>& to) {
    const std::size_t count = from.size() / width;
    if (count <= windows * window_elements) {
      to.assign(from.begin(), from.end());
      return;
    }
    to.resize(windows * window_elements * width);
    for (std::size_t i = 0; i < windows; ++i) {
      const std::size_t first = i * (count - window_elements) / (windows - 1);
      std::memcpy(to.data() + i * window_elements * width, from.data() + first * width, window_elements * width);
    }
  };
  copy(chunk, elements_);
  gathered_share_ = static_cast<double>(elements_.size()) / static_cast<double>(chunk.size());
  if (base.empty()) return;
  copy(base, base_);
  zigzag_differences(elements_.data(), base_.data(), elements_.size() / width, width, elements_.data());
}

Chooser::Figures Chooser::measure(Bytes plane) const {
  Figures figures;
  figures.constant = all_equal(plane, 1);
  if (figures.constant) {
    figures.entropy = figures.cost = 0;
    return figures;
  }
  figures.entropy = entropy_bits(plane);
  // A Huffman code spends a whole bit on its likeliest symbol.
  figures.cost = figures.entropy >= kRandomBits ? 8 : std::max(figures.entropy, 1.0);
  return figures;
}

// Bits for a byte of `data`, which are a part of what the frame would hold; `fixed_bytes` of it do not grow with them.
double Chooser::frame_bits(std::size_t frame_bytes, Bytes data, std::size_t fixed_bytes) const {
  if (frame_bytes == 0) return std::numeric_limits<double>::infinity();  // it did not fit
  const double bytes = static_cast<double>(frame_bytes) - (1 - gathered_share_) * static_cast<double>(fixed_bytes);
  return 8 * bytes / static_cast<double>(data.size());
}

// Compresses `plane` in every way that is to be tried.
Chooser::Probed Chooser::probe_plane(Bytes plane, bool try_zero_runs, bool try_lz, double gain, const Figures& figures,
                                     FrameEncoder& frames) {
  Probed best;
  if (figures.entropy < kRandomBits) {
    const std::size_t bytes = frames.huffman(plane, frame_);
    const double bits = frame_bits(bytes, plane, frames.description_bytes());
    if (bits < best.cost) best = {PlaneMode::kHuffman, false, bits};
  }
  if (try_zero_runs) {
    const std::size_t bytes = frames.zero_runs(plane, frame_);
    const double bits = frame_bits(bytes, plane, frames.description_bytes());
    // Zeros alone are one run, and one symbol, too; but there is more outside of the sample.
    const bool zeros_alone = plane[0] == std::byte{0} && all_equal(plane, 1);
    if (zeros_alone || bits < best.cost * gain) best = {PlaneMode::kZstd, true, bits};
  }
  if (try_lz) {
    const double bits = frame_bits(frames.lz(plane, kFastLevel, frame_), plane);
    if (bits < best.cost * gain) best = {PlaneMode::kZstd, false, bits};
  }
  return best;
}

Plan Chooser::choose(Bytes chunk, Bytes base, ElementFormat format, FrameEncoder& frames) {
  Plan plan;
  if (chunk.size() < kSmallest) return plan;
  const unsigned width = chunk.size() % format.width == 0 ? format.width : 1;
  plan.width = width;
  const bool delta = !base.empty();
  plan.rotate = !delta && format.is_float && width > 1;
  if (!delta && all_equal(chunk, width)) {
    plan.codec = Codec::kPlanes;
    plan.modes.fill(PlaneMode::kConstant);
    plan.bits = 0;
    return plan;
  }
  // Differences, of whatever, are noise around zero: only where many are zero is there a match to be found.
  const bool noisy = delta || format.is_float;
  const double gain = noisy ? kFloatGain : kOtherGain;

  const auto split = [&](std::size_t* count) {
    *count = elements_.size() / width;
    planes_.resize(elements_.size());
    std::array<std::byte*, 8> planes{};
    for (unsigned k = 0; k < width; ++k) planes[k] = planes_.data() + k * *count;
    split_planes(elements_.data(), *count, width, plan.rotate, {planes.data(), width});
  };
  const auto plane = [&](unsigned k, std::size_t count) { return Bytes(planes_).subspan(k * count, count); };

  std::array<Figures, 8> figures;
  std::size_t count = 0;
  gather(chunk, base, width, kSampleWindows, kSampleWindowElements);
  split(&count);
  const bool probe_all = !noisy || repeated_share(elements_, width) >= kSuspiciousRepeats;
  std::array<bool, 8> probe{};
  for (unsigned k = 0; k < width; ++k) {
    Figures& f = figures[k];
    f = measure(plane(k, count));
    plan.modes[k] = f.constant ? PlaneMode::kConstant : f.cost < 8 ? PlaneMode::kHuffman : PlaneMode::kRaw;
    probe[k] = !f.constant && (probe_all || (f.cost < 8 && repeated_share(plane(k, count), 1) >= kSuspiciousRepeats));
  }

  double whole = 8;
  if (probe_all || std::find(probe.begin(), probe.end(), true) != probe.end()) {
    const bool runs_only = delta && format.is_float;
    const std::size_t windows = runs_only ? kDeltaProbeWindows : noisy ? kFloatProbeWindows : kOtherProbeWindows;
    gather(chunk, base, width, windows, (runs_only ? kDeltaProbeBytes : kProbeBytes) / windows / width);
    split(&count);
    frame_.resize(zstd_bound(elements_.size()));
    for (unsigned k = 0; k < width; ++k) {
      if (!probe[k]) continue;
      const Probed probed = probe_plane(plane(k, count), delta, !delta || !format.is_float, gain, figures[k], frames);
      plan.modes[k] = probed.mode, plan.zero_runs[k] = probed.zero_runs, figures[k].cost = probed.cost;
    }
    if (probe_all && width > 1 && !delta) whole = frame_bits(frames.lz(elements_, kFastLevel, frame_), elements_);
  }

  double by_planes = 0;
  for (unsigned k = 0; k < width; ++k) by_planes += figures[k].cost / width;
  if (std::min(by_planes, whole) > 8.0 - 8.0 / kMinSavingDivisor) return plan;  // raw
  plan.codec = delta ? Codec::kDelta : whole < by_planes * gain ? Codec::kZstd : Codec::kPlanes;
  plan.bits = plan.codec == Codec::kZstd ? whole : by_planes;
  // One plane of matches needs no planes.
  if (!delta && width == 1 && plan.modes[0] == PlaneMode::kZstd) plan.codec = Codec::kZstd;
  return plan;
}

}  // namespace ostraca
