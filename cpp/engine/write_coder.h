// What one coding thread of a WritePipeline works with.
#pragma once

#include "base/buffer.h"
#include "base/limits.h"
#include "codec/codec.h"
#include "engine/keyframe.h"
#include "engine/write_pipeline.h"

namespace ostraca {

struct WritePipeline::Coder {
  ChunkEncoder encoder;
  AlignedBuffer scratch;
  Keyframe::Scratch base;

  // The piece's decoded bytes, read once: from the stage, in place when nobody can change them, or copied.
  Result<Bytes> read(const Piece& piece, const std::byte* staged) {
    if (staged) return Bytes(staged, piece.decoded_bytes);
    const Fragment& first = piece.fragments.front();
    if (piece.fragments.size() == 1 && first.source->array.immutable)
      if (const std::byte* memory = first.source->in_place(first.chunk)) return Bytes(memory, piece.decoded_bytes);
    if (scratch.size() == 0) {
      OSTRACA_ASSIGN_OR_RETURN(scratch, AlignedBuffer::allocate(kChunkBytesMax));
    }
    for (const Fragment& f : piece.fragments) f.source->gather(f.chunk, scratch.data() + f.offset);
    return Bytes(scratch.data(), piece.decoded_bytes);
  }
};

}  // namespace ostraca
