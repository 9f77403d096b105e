// The scalar loop with BMI2. (A gather of eight codes is slower than eight loads.)
#include "codec/huffman_scalar.h"

namespace ostraca::huffman_kernels {

std::size_t encode_avx2(const std::byte* symbols, std::size_t count, const CodeTable& table, BitSink* sink) {
  return encode_scalar(symbols, count, table, sink);
}

}  // namespace ostraca::huffman_kernels
