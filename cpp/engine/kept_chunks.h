// What a save keeps of a keyframe in memory, for saves against it: in the blocks in which it was staged, if it was.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/bytes.h"

namespace ostraca {

struct KeptChunks {
  explicit KeptChunks(std::shared_ptr<BufferPool> staging) : pool(std::move(staging)) {}

  std::shared_ptr<BufferPool> pool;  // the blocks go back to it
  std::vector<PooledBuffer> blocks;
  std::map<std::pair<std::uint32_t, std::uint32_t>, Bytes> chunks;  // decoded, in the blocks, by part and extent
};

}  // namespace ostraca
