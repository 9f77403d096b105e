// The vocabulary of a checkpoint: ids, dtypes, leaf kinds, key paths.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ostraca/status.h"

namespace ostraca {

// 128 random bits that name one attempt to save, and the checkpoint it became.
struct CheckpointId {
  std::array<std::uint8_t, 16> bytes{};

  static CheckpointId random();
  static Result<CheckpointId> from_hex(std::string_view hex);  // 32 lower-case digits
  std::string hex() const;
  bool operator==(const CheckpointId&) const = default;
};

// How the bytes of a stored chunk are coded (docs/format.md, section 7).
enum class Codec : std::uint8_t { kRaw = 0, kZstd = 1, kPlanes = 2, kDelta = 3 };
inline constexpr const char* kCodecNames[] = {"raw", "zstd", "planes", "delta"};  // by number

// Codes are those of docs/format.md, section 6.
enum class LeafKind : std::uint8_t {
  kArray = 1,
  kPrngKey = 2,
  kInt = 3,
  kFloat = 4,
  kBool = 5,
  kStr = 6,
  kBytes = 7,
  kNone = 8,
  kEmptyDict = 9,
  kEmptyList = 10,
  kEmptyTuple = 11,
  kStrings = 12,      // where each element ends in the data, which is the next leaf; elements are UTF-8
  kByteStrings = 13,  // the same; elements are any bytes
};
inline bool kind_has_data(LeafKind kind) { return kind < LeafKind::kNone || kind > LeafKind::kEmptyTuple; }
inline bool kind_is_strings(LeafKind kind) { return kind >= LeafKind::kStrings; }

enum class DType : std::uint8_t {
  kNone = 0,
  kBool = 1,
  kInt8 = 2,
  kInt16 = 3,
  kInt32 = 4,
  kInt64 = 5,
  kUint8 = 6,
  kUint16 = 7,
  kUint32 = 8,
  kUint64 = 9,
  kFloat16 = 10,
  kFloat32 = 11,
  kFloat64 = 12,
  kComplex64 = 13,
  kComplex128 = 14,
  kBfloat16 = 15,
  kFloat8E4M3FN = 16,
  kFloat8E5M2 = 17,
  kFloat8E4M3FNUZ = 18,
  kFloat8E5M2FNUZ = 19,
  kFloat8E4M3B11FNUZ = 20,
  kFloat8E3M4 = 21,
  kFloat8E4M3 = 22,
  kFloat8E8M0FNU = 23,
  kFloat4E2M1FN = 24,
  kFloat6E2M3FN = 25,
  kFloat6E3M2FN = 26,
  kInt2 = 27,
  kUint2 = 28,
  kInt4 = 29,
  kUint4 = 30,
  kInt1 = 31,
  kUint1 = 32,
  kDatetime64 = 33,
  kTimedelta64 = 34,
  kByteString = 35,
  kTextString = 36,
  kVoid = 37,
};
inline constexpr unsigned kDTypeCount = 38;

struct DTypeInfo {
  const char* name;           // numpy's or ml_dtypes' name
  std::uint32_t item_bytes;   // 0 where the leaf's detail says (kByteString, kTextString, kVoid) and for kNone
  std::uint8_t scalar_bytes;  // the unit of byte order and of byte planes
  bool is_float;
};
const DTypeInfo& dtype_info(DType dtype);  // REQUIRES: a value of the enumeration

// Bytes of one element of `dtype` with `detail`; kFormat when the detail is not a valid size for the dtype.
Result<std::uint32_t> item_bytes(DType dtype, std::string_view detail);

// One part of a leaf's key path.
struct KeyPart {
  enum class Type : std::uint8_t { kString = 1, kInteger = 2, kListIndex = 3, kTupleIndex = 4, kAttribute = 5 };
  Type type = Type::kString;
  std::string text;          // kString, kAttribute
  std::int64_t integer = 0;  // the others
};

// A key path in its stored form (docs/format.md, section 5), which is also its identity.
std::string encode_key_path(const std::vector<KeyPart>& parts);
Result<std::vector<KeyPart>> decode_key_path(std::string_view encoded);
// "params/dense/kernel"; kFormat when `encoded` is malformed.
Result<std::string> display_name(std::string_view encoded);
// The path of string keys that a display name spells: split at '/', "~1" and "~0" undone.
std::string key_path_from_name(std::string_view name);

}  // namespace ostraca
