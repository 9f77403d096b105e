#include "container/key_path.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/bytes.h"

namespace ostraca {
namespace {

constexpr std::size_t kPrintableBytesMax = 200;

bool is_text(KeyPart::Type type) { return type == KeyPart::Type::kString || type == KeyPart::Type::kAttribute; }
bool is_index(KeyPart::Type type) { return type == KeyPart::Type::kListIndex || type == KeyPart::Type::kTupleIndex; }

// Bytes of the UTF-8 sequence at `p`, 0 when it is not one (RFC 3629: no surrogates, no overlong forms).
std::size_t utf8_sequence(const unsigned char* p, std::size_t available) {
  const unsigned char lead = p[0];
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (available < length) return 0;
  // The second byte's range rules out overlong forms, surrogates and values above U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (p[1] < low || p[1] > high) return 0;
  for (std::size_t i = 2; i < length; ++i)
    if ((p[i] & 0xC0) != 0x80) return 0;
  return length;
}

template <class T>
void append_le(std::string* out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out->append(bytes, sizeof value);
}

template <class T>
void append_decimal(std::string* out, T value) {
  char digits[24];
  out->append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

}  // namespace

bool valid_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  std::size_t left = text.size();
  while (left > 0) {
    if (left >= 8 && (load_le<std::uint64_t>(reinterpret_cast<const std::byte*>(p)) & 0x8080808080808080u) == 0) {
      p += 8, left -= 8;
      continue;
    }
    const std::size_t length = utf8_sequence(p, left);
    if (length == 0) return false;
    p += length, left -= length;
  }
  return true;
}

const char* next_key_part(std::string_view* rest, KeyPartView* part) {
  const auto type = static_cast<KeyPart::Type>(rest->front());
  const auto* body = reinterpret_cast<const std::byte*>(rest->data()) + 1;
  const std::size_t left = rest->size() - 1;
  part->type = type;
  if (is_text(type)) {
    if (left < 4) return "a part is cut off";
    const std::size_t length = load_le<std::uint32_t>(body);
    if (length > left - 4) return "a part is longer than the path";
    part->text = rest->substr(5, length);
    if (!valid_utf8(part->text)) return "a part is not UTF-8";
    rest->remove_prefix(5 + length);
    return nullptr;
  }
  if (type != KeyPart::Type::kInteger && !is_index(type)) return "a part has an unknown type";
  if (left < 8) return "a part is cut off";
  part->integer = load_le<std::int64_t>(body);
  rest->remove_prefix(9);
  return nullptr;
}

void append_display(const KeyPartView& part, std::string* name) {
  if (part.type == KeyPart::Type::kInteger) return append_decimal(name, part.integer);
  if (is_index(part.type)) return append_decimal(name, static_cast<std::uint64_t>(part.integer));
  for (std::string_view text = part.text; !text.empty();) {
    const std::size_t plain = std::min(text.find_first_of("~/"), text.size());
    name->append(text.substr(0, plain));
    text.remove_prefix(plain);
    if (text.empty()) break;
    name->append(text.front() == '~' ? "~0" : "~1");
    text.remove_prefix(1);
  }
}

std::string printable_name(std::string_view encoded) {
  const Result<std::string> name = display_name(encoded);
  if (!name.ok()) return "(unreadable)";
  if (name->size() <= kPrintableBytesMax) return *name;
  std::size_t cut = kPrintableBytesMax;
  while (cut > 0 && (static_cast<unsigned char>((*name)[cut]) & 0xC0) == 0x80) --cut;  // keep it UTF-8
  return name->substr(0, cut) + "...";
}

std::string listed_names(std::span<const std::string> names) {
  constexpr std::size_t kNamesMax = 5;
  std::string text;
  for (const std::string& name : names.first(std::min(names.size(), kNamesMax)))
    text += (text.empty() ? "'" : ", '") + name + "'";
  if (names.size() > kNamesMax) text += " and " + std::to_string(names.size() - kNamesMax) + " more";
  return text;
}

std::string encode_key_path(const std::vector<KeyPart>& parts) {
  std::string out;
  for (const KeyPart& part : parts) {
    out.push_back(static_cast<char>(part.type));
    if (is_text(part.type)) {
      append_le(&out, static_cast<std::uint32_t>(part.text.size()));
      out += part.text;
    } else {
      append_le(&out, part.integer);
    }
  }
  return out;
}

Result<std::vector<KeyPart>> decode_key_path(std::string_view encoded) {
  std::vector<KeyPart> parts;
  while (!encoded.empty()) {
    KeyPartView part;
    if (const char* problem = next_key_part(&encoded, &part)) return format_error(std::string("key path: ") + problem);
    parts.push_back({part.type, std::string(part.text), part.integer});
  }
  return parts;
}

Result<std::string> display_name(std::string_view encoded) {
  std::string name;
  for (bool first = true; !encoded.empty(); first = false) {
    KeyPartView part;
    if (const char* problem = next_key_part(&encoded, &part)) return format_error(std::string("key path: ") + problem);
    if (!first) name.push_back('/');
    append_display(part, &name);
  }
  return name;
}

std::string key_path_from_name(std::string_view name) {
  std::vector<KeyPart> parts;
  if (name.empty()) return {};  // the name of a tree that is one leaf
  for (bool more = true; more;) {
    const std::size_t end = std::min(name.find('/'), name.size());
    KeyPart part;
    for (std::size_t i = 0; i < end; ++i) {
      const bool escape = name[i] == '~' && i + 1 < end && (name[i + 1] == '0' || name[i + 1] == '1');
      part.text.push_back(escape ? (name[++i] == '0' ? '~' : '/') : name[i]);
    }
    parts.push_back(std::move(part));
    more = end < name.size();
    name.remove_prefix(more ? end + 1 : end);
  }
  return encode_key_path(parts);
}

}  // namespace ostraca
