#include "container/json_text.h"

#include <cinttypes>
#include <cstdio>

namespace ostraca {
namespace {

constexpr std::size_t kDepthMax = 512;
constexpr std::string_view kWhiteSpace = " \t\r\n";
constexpr const char* kTimeFormat = "%Y-%m-%dT%H:%M:%SZ";
constexpr std::int64_t kUtcSecondsMax = INT64_MAX / 1'000'000'000 - 1;  // in 2262: nanoseconds fit, too

// Index behind the string that starts at `at`; the text's size when it does not end.
std::size_t string_end(std::string_view text, std::size_t at) {
  for (++at; at < text.size() && text[at] != '"'; ++at)
    if (text[at] == '\\') ++at;
  return std::min(at + 1, text.size());
}

// Index behind the value that starts at `at`.
std::size_t value_end(std::string_view text, std::size_t at) {
  std::size_t depth = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '"') {
      at = string_end(text, at);
    } else if (c == '{' || c == '[') {
      ++depth, ++at;
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth, ++at;
    } else if (depth > 0) {
      ++at;
      continue;
    } else {
      return std::min(text.find_first_of(",]} \t\r\n", at), text.size());
    }
    if (depth == 0) return at;
  }
  return at;
}

bool too_deep(std::string_view text) {
  std::size_t depth = 0;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '"') {
      at = string_end(text, at);
      continue;
    }
    if ((c == '{' || c == '[') && ++depth > kDepthMax) return true;
    if ((c == '}' || c == ']') && depth > 0) --depth;
    ++at;
  }
  return false;
}

}  // namespace

Status check_json(std::string_view text) {
  // The parser takes a zero byte for the end of the text and skips a byte order mark.
  if (text.find('\0') != std::string_view::npos) return format_error("a zero byte is not JSON");
  if (text.starts_with("\xEF\xBB\xBF")) return format_error("a byte order mark is not JSON");
  if (too_deep(text)) return format_error("JSON nested more than " + std::to_string(kDepthMax) + " deep");
  if (!nlohmann::json::accept(text)) return format_error("malformed JSON");
  return {};
}

void for_each_member(std::string_view text, const std::function<void(std::string_view, std::string_view)>& visit) {
  std::size_t at = text.find('{') + 1;
  while (true) {
    at = text.find_first_not_of(" \t\r\n,", at);
    if (at >= text.size() || text[at] == '}') return;
    const std::size_t name_end = string_end(text, at);
    const std::string_view name = text.substr(at + 1, name_end - at - 2);
    at = text.find_first_not_of(kWhiteSpace, text.find(':', name_end) + 1);
    const std::size_t end = value_end(text, at);
    visit(name, text.substr(at, end - at));
    at = end;
  }
}

std::string utc(std::time_t seconds_since_1970) {
  std::tm time{};
  gmtime_r(&seconds_since_1970, &time);
  char text[32];
  text[std::strftime(text, sizeof text, kTimeFormat, &time)] = '\0';
  return text;
}

std::time_t seconds_of_utc(const std::string& text) {
  std::tm time{};
  return ::strptime(text.c_str(), kTimeFormat, &time) == nullptr ? -1 : ::timegm(&time);
}

Result<std::string> json_utc(const nlohmann::json& object, const char* name) {
  OSTRACA_ASSIGN_OR_RETURN(std::string text, json_string(object, name));
  const std::time_t seconds = seconds_of_utc(text);
  // Written again it must be the same text: strptime also takes the 31st of February, and single digits.
  if (seconds < 0 || seconds > kUtcSecondsMax || utc(seconds) != text)
    return json_mismatch(object, name, "a UTC time like \"2026-11-20T12:00:00Z\"");
  return text;
}

const nlohmann::json* json_member(const nlohmann::json& object, const char* name) {
  const auto it = object.find(name);
  return it == object.end() ? nullptr : &*it;
}

Status json_mismatch(const nlohmann::json& object, const char* name, const std::string& expected) {
  constexpr std::size_t kShown = 40;
  const nlohmann::json* member = json_member(object, name);
  std::string found = "nothing";
  if (member != nullptr)
    found = member->is_structured() ? member->type_name() : member->dump(-1, ' ', /*ensure_ascii=*/true);
  if (found.size() > kShown) found = found.substr(0, kShown) + "...";
  return format_error("member '" + std::string(name) + "': expected " + expected + ", found " + found);
}

Result<std::string> json_string(const nlohmann::json& object, const char* name) {
  const nlohmann::json* member = json_member(object, name);
  if (member == nullptr || !member->is_string()) return json_mismatch(object, name, "a string");
  return member->get<std::string>();
}

Result<std::uint64_t> json_unsigned(const nlohmann::json& object, const char* name, std::uint64_t max) {
  const nlohmann::json* member = json_member(object, name);
  if (member == nullptr || !member->is_number_unsigned() || member->get<std::uint64_t>() > max)
    return json_mismatch(object, name, "an integer from 0 to " + std::to_string(max));
  return member->get<std::uint64_t>();
}

Result<std::int64_t> json_integer(const nlohmann::json& object, const char* name) {
  const nlohmann::json* member = json_member(object, name);
  const bool big = member != nullptr && member->is_number_unsigned() && member->get<std::uint64_t>() > INT64_MAX;
  if (member == nullptr || !member->is_number_integer() || big) return json_mismatch(object, name, "a 64-bit integer");
  return member->get<std::int64_t>();
}

Result<double> json_seconds(const nlohmann::json& object, const char* name) {
  const nlohmann::json* member = json_member(object, name);
  if (member == nullptr || !member->is_number() || member->get<double>() < 0)
    return json_mismatch(object, name, "a number of seconds");
  return member->get<double>();
}

std::string to_hex(std::uint64_t value, unsigned digits) {
  char text[24];
  std::snprintf(text, sizeof text, "%0*" PRIx64, static_cast<int>(digits), value);
  return text;
}

bool parse_hex(std::string_view digits, std::uint64_t* value) {
  *value = 0;
  for (const char c : digits) {
    const bool decimal = c >= '0' && c <= '9';
    if (!decimal && (c < 'a' || c > 'f')) return false;
    *value = *value << 4 | static_cast<std::uint64_t>(decimal ? c - '0' : c - 'a' + 10);
  }
  return true;
}

Result<std::uint64_t> json_hex(const nlohmann::json& object, const char* name, unsigned digits) {
  const nlohmann::json* member = json_member(object, name);
  std::uint64_t value = 0;
  if (member == nullptr || !member->is_string() || member->get_ref<const std::string&>().size() != digits ||
      !parse_hex(member->get_ref<const std::string&>(), &value))
    return json_mismatch(object, name, std::to_string(digits) + " lower-case hexadecimal digits");
  return value;
}

Result<CheckpointId> json_id(const nlohmann::json& object, const char* name) {
  OSTRACA_ASSIGN_OR_RETURN(const std::string hex, json_string(object, name));
  Result<CheckpointId> id = CheckpointId::from_hex(hex);
  if (!id.ok()) return id.status().with_context("member '" + std::string(name) + "'");
  return id;
}

std::string json_quote(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace ostraca
