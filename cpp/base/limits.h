// Every limit of the engine and of the format, by name and with its unit. docs/format.md lists those of the format.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ostraca {

inline constexpr std::size_t kKiB = 1024;
inline constexpr std::size_t kMiB = 1024 * kKiB;
inline constexpr std::size_t kGiB = 1024 * kMiB;

// Format.
inline constexpr std::size_t kChunkBytesMax = 4 * kMiB;        // decoded bytes of one chunk
inline constexpr std::size_t kPackBytesMax = 1 * kMiB;         // decoded bytes of one pack of small arrays
inline constexpr std::size_t kPackMemberBytesMax = 64 * kKiB;  // arrays up to this size are packed
inline constexpr std::size_t kRankMax = 64;                    // dimensions of an array (numpy's own limit)
inline constexpr std::size_t kAlignmentMin = 4 * kKiB;         // bytes; of blocks in a data file
inline constexpr std::size_t kAlignmentMax = 64 * kKiB;
inline constexpr std::size_t kManifestBytesMax = 64 * kMiB;
inline constexpr std::size_t kNotesBytesMax = 1 * kMiB;
inline constexpr std::uint64_t kNotesNumberMax = 1'000'000'000'000'000;
inline constexpr std::size_t kDirectoryBytesMax = 2 * kGiB;  // decoded bytes of a directory
inline constexpr std::size_t kKeyPathBytesMax = 64 * kKiB;   // encoded key path of one leaf
inline constexpr std::size_t kNameBytesMax = 255;            // a file's name inside a checkpoint
inline constexpr std::size_t kItemBytesMax = 1 * kMiB;       // of one element
inline constexpr std::size_t kDetailBytesMax = 1 * kKiB;     // of one leaf's detail
inline constexpr std::uint32_t kProcessCountMax = 1u << 18;
inline constexpr std::uint32_t kPartCountMax = 1u << 16;   // data files of one process
inline constexpr std::uint32_t kFileCountMax = 1u << 18;   // data files of one checkpoint: 8 TiB in files of 32 MiB
inline constexpr std::size_t kManifestFileBytesMax = 136;  // of one file's entry in the manifest
static_assert(kProcessCountMax <= kFileCountMax);
static_assert(kFileCountMax * kManifestFileBytesMax <= kManifestBytesMax - 28 * kMiB, "and room for the metadata");
inline constexpr std::size_t kReportBytesMax = 1 * kKiB;  // what a process tells the committer

// Engine.
inline constexpr std::size_t kBlockBytes = 8 * kMiB;            // one output buffer
inline constexpr std::size_t kCodingBytesDefault = 128 * kMiB;  // buffers of one save or load
inline constexpr unsigned kThreadsMax = 256;
inline constexpr std::uint64_t kObjectFileBytes = 32 * kMiB;  // of a data file that is in memory until it is complete

}  // namespace ostraca
