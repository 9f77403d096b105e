#include "ostraca/types.h"

#include <unistd.h>
#if defined(__APPLE__)
#include <sys/random.h>
#endif

#include <cstdlib>

#include "base/limits.h"

namespace ostraca {
namespace {

constexpr DTypeInfo kDTypes[kDTypeCount] = {
    {"none", 0, 0, false},
    {"bool", 1, 1, false},
    {"int8", 1, 1, false},
    {"int16", 2, 2, false},
    {"int32", 4, 4, false},
    {"int64", 8, 8, false},
    {"uint8", 1, 1, false},
    {"uint16", 2, 2, false},
    {"uint32", 4, 4, false},
    {"uint64", 8, 8, false},
    {"float16", 2, 2, true},
    {"float32", 4, 4, true},
    {"float64", 8, 8, true},
    {"complex64", 8, 4, true},
    {"complex128", 16, 8, true},
    {"bfloat16", 2, 2, true},
    {"float8_e4m3fn", 1, 1, true},
    {"float8_e5m2", 1, 1, true},
    {"float8_e4m3fnuz", 1, 1, true},
    {"float8_e5m2fnuz", 1, 1, true},
    {"float8_e4m3b11fnuz", 1, 1, true},
    {"float8_e3m4", 1, 1, true},
    {"float8_e4m3", 1, 1, true},
    {"float8_e8m0fnu", 1, 1, true},
    {"float4_e2m1fn", 1, 1, true},
    {"float6_e2m3fn", 1, 1, true},
    {"float6_e3m2fn", 1, 1, true},
    {"int2", 1, 1, false},
    {"uint2", 1, 1, false},
    {"int4", 1, 1, false},
    {"uint4", 1, 1, false},
    {"int1", 1, 1, false},
    {"uint1", 1, 1, false},
    {"datetime64", 8, 8, false},
    {"timedelta64", 8, 8, false},
    {"bytes", 0, 1, false},
    {"str", 0, 4, false},
    {"void", 0, 1, false},
};

constexpr std::string_view kTimeUnits[] = {"Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"};
constexpr char kHexDigits[] = "0123456789abcdef";

// Takes decimal digits off the front, without leading zeros. False when there are none or they exceed `max`.
bool take_decimal(std::string_view* text, std::uint64_t max, std::uint64_t* value) {
  std::size_t digits = 0;
  for (*value = 0; digits < text->size(); ++digits) {
    const char c = (*text)[digits];
    if (c < '0' || c > '9') break;
    *value = *value * 10 + static_cast<std::uint64_t>(c - '0');
    if (*value > max) return false;
  }
  if (digits == 0 || (digits > 1 && text->front() == '0')) return false;
  text->remove_prefix(digits);
  return true;
}

// "ns", "25s"; empty is numpy's generic unit.
bool valid_time_unit(std::string_view unit) {
  constexpr std::uint64_t kCountMax = 0x7FFFFFFF;  // numpy keeps it in an int
  if (unit.empty()) return true;
  std::uint64_t count = 1;
  if (unit.front() >= '0' && unit.front() <= '9' && !take_decimal(&unit, kCountMax, &count)) return false;
  if (count == 0) return false;
  for (std::string_view known : kTimeUnits)
    if (unit == known) return true;
  return false;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

CheckpointId CheckpointId::random() {
  CheckpointId id;
  // Without randomness two attempts could share a name and destroy each other: there is nothing to fall back to.
  if (getentropy(id.bytes.data(), id.bytes.size()) != 0) std::abort();
  return id;
}

Result<CheckpointId> CheckpointId::from_hex(std::string_view hex) {
  CheckpointId id;
  if (hex.size() != 2 * id.bytes.size())
    return format_error("id: expected 32 hexadecimal digits, found " + std::to_string(hex.size()) + " characters");
  for (std::size_t i = 0; i < id.bytes.size(); ++i) {
    const int high = hex_value(hex[2 * i]);
    const int low = hex_value(hex[2 * i + 1]);
    if (high < 0 || low < 0) return format_error("id: expected lower-case hexadecimal digits");
    id.bytes[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  return id;
}

std::string CheckpointId::hex() const {
  std::string out;
  for (std::uint8_t byte : bytes) {
    out.push_back(kHexDigits[byte >> 4]);
    out.push_back(kHexDigits[byte & 15]);
  }
  return out;
}

const DTypeInfo& dtype_info(DType dtype) { return kDTypes[static_cast<unsigned>(dtype)]; }

Result<std::uint32_t> item_bytes(DType dtype, std::string_view detail) {
  const DTypeInfo& info = dtype_info(dtype);
  const auto bad = [&](const char* expected) {
    std::string found(detail.substr(0, 40));
    for (char& c : found)
      if (c < ' ' || c > '~') c = '?';  // a message is text, the detail may be anything
    return format_error(std::string("detail of dtype ") + info.name + ": expected " + expected + ", found '" + found +
                        "'");
  };
  switch (dtype) {
    case DType::kDatetime64:
    case DType::kTimedelta64:
      if (!valid_time_unit(detail)) return bad("a numpy time unit");
      return info.item_bytes;
    case DType::kByteString:
    case DType::kTextString:
    case DType::kVoid: {
      std::uint64_t bytes = 0;
      if (!take_decimal(&detail, kItemBytesMax, &bytes) || !detail.empty()) return bad("item bytes, at most 1 MiB");
      if (bytes % info.scalar_bytes != 0) return bad("a multiple of 4 bytes");
      return static_cast<std::uint32_t>(bytes);
    }
    default:
      return info.item_bytes;  // the detail is not the dtype's: a PRNG key has its implementation's name there
  }
}

}  // namespace ostraca
