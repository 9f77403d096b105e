// Checkpoints changed from within: the parts of one, decoded, to be edited, and put together again with all checksums
// and sizes right, so that only what was edited is wrong.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checksum/crc32c.h"
#include "codec/codec.h"
#include "container/file_format.h"
#include "container/manifest.h"
#include "memory_disk.h"

namespace ostraca::testing {

using ByteVector = std::vector<std::byte>;

// A data or index file, in parts. The footer's places, sizes and checksums are recomputed by seal().
struct FileParts {
  ByteVector header, body, table, directory, footer;  // body: extents and padding; directory: decoded

  // REQUIRES: `file` is a good one.
  static FileParts open(Bytes file) {
    const FileFooter footer = decode_footer(file.last(kFooterBytes), file.size()).take();
    const auto copy = [&](std::uint64_t from, std::uint64_t to) {
      return ByteVector(file.begin() + from, file.begin() + to);
    };
    FileParts parts;
    parts.header = copy(0, kHeaderBytes);
    parts.body = copy(kHeaderBytes, footer.table_offset);
    parts.table = copy(footer.table_offset, footer.directory_offset);
    parts.directory.resize(footer.directory_decoded_bytes);
    parts.footer = copy(file.size() - kFooterBytes, file.size());
    const Bytes frame = file.subspan(footer.directory_offset, footer.directory_stored_bytes);
    if (!zstd_decompress(frame, parts.directory).ok()) parts.directory.clear();
    return parts;
  }

  // Recomputes what the parts determine. An edit of the footer comes after it, and then only sign().
  void seal() {
    for (std::size_t at = 0; at + kExtentEntryBytes <= table.size(); at += kExtentEntryBytes) {
      const auto offset = load_le<std::uint64_t>(&table[at]);
      const auto bytes = load_le<std::uint32_t>(&table[at + 8]);
      if (offset >= kHeaderBytes && offset - kHeaderBytes <= body.size() &&
          bytes <= body.size() - (offset - kHeaderBytes))
        store_le(&table[at + 16], crc32c(Bytes(body).subspan(offset - kHeaderBytes, bytes)));
    }
    frame_.resize(zstd_bound(directory.size()));
    frame_.resize(zstd_compress(directory, 1, frame_).take());
    const std::uint64_t table_offset = kHeaderBytes + body.size();
    const std::uint64_t fields[] = {table_offset, table.size() / kExtentEntryBytes, table_offset + table.size(),
                                    frame_.size(), directory.size()};
    std::memcpy(footer.data(), fields, sizeof fields);
    store_le(&footer[40], crc32c(table));
    store_le(&footer[44], crc32c(frame_));
    store_le(&footer[64], table_offset + table.size() + frame_.size() + kFooterBytes);
    sign();
  }
  void sign() {
    store_le(&header[60], crc32c(Bytes(header).first(60)));
    std::copy_n(header.begin() + 60, 4, footer.begin() + 88);
    store_le(&footer[92], crc32c(Bytes(footer).first(92)));
  }
  ByteVector bytes() const {
    ByteVector out;
    for (const ByteVector* part : {&header, &body, &table, &frame_, &footer})
      out.insert(out.end(), part->begin(), part->end());
    return out;
  }
  std::uint32_t footer_crc() const { return load_le<std::uint32_t>(&footer[92]); }

 private:
  ByteVector frame_;
};

// A checkpoint of one data file.
struct CheckpointParts {
  std::string manifest_text;
  Manifest manifest;
  FileParts data, index;

  // REQUIRES: a good checkpoint of one process.
  static CheckpointParts open(const MemoryDisk& disk) {
    const auto files = disk.files();
    CheckpointParts parts;
    parts.manifest_text = as_text(files.at(kManifestName));
    parts.manifest = decode_manifest(parts.manifest_text).take();
    parts.data = FileParts::open(files.at(parts.manifest.files.at(0).name));
    parts.index = FileParts::open(files.at(parts.manifest.index.name));
    return parts;
  }
  // Puts the data file's size and checksum into the index, to be called after data.seal() and before index.seal().
  void promise_data() {
    if (index.directory.size() < 64 + 40) return;
    manifest.files[0].bytes = data.bytes().size();
    manifest.files[0].footer_crc = data.footer_crc();
    store_le(&index.directory[64], manifest.files[0].bytes);
    store_le(&index.directory[72], manifest.files[0].footer_crc);
  }
  // The same for the index in the manifest, after index.seal().
  void promise_index() {
    manifest.index.bytes = index.bytes().size();
    manifest.index.footer_crc = index.footer_crc();
    if (Result<std::string> text = encode_manifest(manifest); text.ok()) manifest_text = text.take();
  }
  void write(MemoryDisk& disk) const {
    disk.put(manifest.files[0].name, data.bytes());
    disk.put(manifest.index.name, index.bytes());
    disk.put(kManifestName, {as_bytes(manifest_text).begin(), as_bytes(manifest_text).end()});
  }
  void seal_and_write(MemoryDisk& disk) {
    data.seal();
    promise_data();
    index.seal();
    promise_index();
    write(disk);
  }
};

}  // namespace ostraca::testing
