// The scalar loop with BMI2, for CPUs whose shifts by a register are slow without.
#include "codec/huffman_scalar.h"

namespace ostraca::huffman_kernels {

std::size_t encode_avx2(const std::byte* symbols, std::size_t count, const CodeTable& table, BitSink* sink) {
  return encode_scalar(symbols, count, table, sink);
}

}  // namespace ostraca::huffman_kernels
