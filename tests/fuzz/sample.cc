// Stands in for libFuzzer in the ordinary tests: a few inputs, drawn and not searched for, so that the fuzzers are
// built and run with every change.
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main() {
  constexpr int kInputs = 300;
  constexpr std::size_t kBytesMax = 4096;
  std::mt19937 generator(1);
  for (int i = 0; i < kInputs; ++i) {
    std::vector<std::uint8_t> input(generator() % kBytesMax);
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(generator());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
}
