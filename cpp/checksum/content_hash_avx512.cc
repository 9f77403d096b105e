#define XXH_INLINE_ALL  // everything static
#define XXH_VECTOR XXH_AVX512
#include <xxhash.h>

#include "checksum/content_hash_kernels.h"

namespace ostraca {

Hash128 content_hash_avx512(const std::byte* data, std::size_t size) {
  const XXH128_hash_t hash = XXH3_128bits(data, size);
  return {hash.low64, hash.high64};
}

}  // namespace ostraca
