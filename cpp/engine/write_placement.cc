// How a WritePipeline places coded batches: in their order, each in a block of its own.
#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/write_coder.h"
#include "engine/write_pipeline.h"

namespace ostraca {

void WritePipeline::place_ready() {
  while (next_to_place_ < jobs_.size() && jobs_[next_to_place_].state == Job::State::kCoded) {
    place(jobs_[next_to_place_], next_to_place_ == 0);
    ++next_to_place_;
  }
  if (all_placed()) io_changed_.notify_all();
}

// What a batch would store: of all pieces but those that the base has.
std::vector<Extent> WritePipeline::contents_of(const Job& job) {
  std::vector<Extent> contents;
  for (std::size_t i = 0; i < job.coded.size(); ++i) {
    const Piece& piece = job.batch.pieces[i];
    const CodedPiece& coded = job.coded[i];
    if (coded.in_base) continue;
    Extent& content =
        contents.emplace_back(Extent{.stored_bytes = static_cast<std::uint32_t>(coded.encoded.stored_bytes),
                                     .decoded_bytes = piece.decoded_bytes,
                                     .crc = coded.encoded.crc,
                                     .codec = coded.encoded.codec,
                                     .hash = coded.hash});
    if (coded.encoded.codec != Codec::kDelta) continue;
    content.base_hash = coded.base_hash;
    content.base_file = piece.base->file;
    content.base_extent = piece.base->extent;
  }
  return contents;
}

// Follows the layout: closes the block up where it leaves pieces out, and tells the pieces' sources where they are.
// Only the last batch's block is kept back, so that where the tail goes depends on the batches alone.
void WritePipeline::place(Job& job, bool first) {
  const std::byte* staged = job.staged.data();  // null: not kept
  if (staged && !kept_) kept_ = std::make_shared<KeptChunks>(staging_);
  submit_last_block();
  const FileLayout::Block block = layout_.place(contents_of(job));
  unwritten_.resize(layout_.parts());
  if (block.begins_part && unwritten_[block.part - 1] == 0) to_end_.push_back(block.part - 1);
  if (first) {
    const auto header = encode_header(files_->header(0));
    std::memcpy(job.block.data(), header.data(), header.size());
  }
  bool keeps = false;
  auto content = block.contents.begin();
  for (std::size_t i = 0; i < job.coded.size(); ++i) {
    const Piece& piece = job.batch.pieces[i];
    const CodedPiece& coded = job.coded[i];
    const std::byte* const kept = staged;
    if (staged) staged += piece.decoded_bytes;
    if (coded.in_base) {
      const std::uint32_t file = kRefToBase | base_file_number(piece.base->file);
      for (const Fragment& f : piece.fragments) f.source->refs[f.chunk] = {file, piece.base->extent, f.offset};
      continue;
    }
    if (content->is_new) {
      std::byte* const bytes = job.block.data();
      if (coded.position != content->position)
        std::memmove(bytes + content->position, bytes + coded.position, coded.encoded.stored_bytes);
      if (coded.encoded.codec == Codec::kDelta) (void)base_file_number(piece.base->file);
    }
    for (const Fragment& f : piece.fragments) f.source->refs[f.chunk] = {content->part, content->extent, f.offset};
    if (kept) keeps |= kept_->chunks.try_emplace({content->part, content->extent}, kept, piece.decoded_bytes).second;
    ++content;
  }
  if (keeps) {
    kept_->blocks.push_back(std::move(job.staged));
  } else if (job.keeps) {  // all of it is kept already
    --kept_blocks_;
  }
  if (block.bytes > 0) {
    ++unwritten_[block.part];
    last_ = {std::move(job.block), block.part, block.offset, block.bytes, job.batch.decoded_bytes};
  } else {
    bytes_done_ += job.batch.decoded_bytes;
  }
  job = Job{.state = Job::State::kCoded};
  if (next_to_place_ + 1 < jobs_.size()) submit_last_block();
}

// The place of one of the base's files among those that are used.
std::uint32_t WritePipeline::base_file_number(std::uint32_t file) {
  const auto at = std::ranges::find(base_files_, file) - base_files_.begin();
  if (at == std::ssize(base_files_)) base_files_.push_back(file);
  return static_cast<std::uint32_t>(at);
}

std::vector<FileRecord> WritePipeline::base_files() const {
  std::vector<FileRecord> out;
  for (std::uint32_t file : base_files_) {
    out.push_back(options_.base->file(file));
    out.back().in_base = true;
    out.back().shift = file - out.back().process_index;
  }
  return out;
}

// Pads the block kept back and hands it to the writers.
void WritePipeline::submit_last_block() {
  if (!last_.buffer) return;
  const std::size_t padded = round_up(last_.bytes, files_->alignment());
  std::memset(last_.buffer.data() + last_.bytes, 0, padded - last_.bytes);
  last_.bytes = padded;
  to_write_.push_back(std::move(last_));
  last_ = {};
  io_changed_.notify_one();
}

}  // namespace ostraca
