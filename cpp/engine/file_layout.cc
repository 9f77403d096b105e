#include "engine/file_layout.h"

#include "engine/file_tail.h"

namespace ostraca {

// Whether the current file, with so much more, would pass its limit. A file before the last has a small directory.
bool FileLayout::is_full(std::size_t more_bytes, std::size_t more_extents) const {
  const File& file = files_.back();
  if (limits_.file_bytes == 0 || !file.has_block || files_.size() >= limits_.parts_max) return false;
  const std::uint64_t table = (file.extents.size() + more_extents) * kExtentEntryBytes;
  return file.end + more_bytes + table + kPartTailBytesMax + 2 * alignment_ > limits_.file_bytes;
}

FileLayout::Block FileLayout::place(std::span<const Extent> contents) {
  const bool is_first = files_.size() == 1 && !files_.front().has_block;
  Block block;
  std::size_t bytes = is_first ? kHeaderBytes : 0, count = 0;
  block.contents.reserve(contents.size());
  using Place = decltype(places_)::iterator;
  std::vector<Place> places;
  places.reserve(contents.size());
  for (const Extent& content : contents) {
    const auto [place, is_new] = places_.try_emplace({content.hash, content.decoded_bytes});
    places.push_back(place);
    block.contents.push_back({0, 0, bytes, is_new});
    if (!is_new) continue;
    bytes += content.stored_bytes;
    ++count;
  }
  if (bytes > 0 && is_full(bytes, count)) {
    files_.emplace_back().end = alignment_;  // after its header
    block.begins_part = true;
  }
  File& file = files_.back();
  block.part = parts() - 1;
  block.offset = file.end;
  block.bytes = bytes;
  for (std::size_t i = 0; i < contents.size(); ++i) {
    FileLayout::Content& content = block.contents[i];
    if (content.is_new) {
      places[i]->second = {block.part, static_cast<std::uint32_t>(file.extents.size())};
      file.extents.push_back(contents[i]);
      file.extents.back().offset = block.offset + content.position;
    }
    content.part = places[i]->second.first;
    content.extent = places[i]->second.second;
  }
  file.end += round_up(bytes, alignment_);
  file.has_block |= bytes > 0;
  return block;
}

}  // namespace ostraca
