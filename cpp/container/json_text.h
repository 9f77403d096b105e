// Reading JSON that may be hostile. Internal to container/: manifest and intent are read with it.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca {

// `text` is one JSON value in UTF-8, nested at most 512 deep (Python's parser gives up at about a thousand), with
// nothing but white space around it.
Status check_json(std::string_view text);

// Calls `visit` with the name (as written, escapes included) and the exact text of each member of an object, so that
// nothing is built from members nobody wants. REQUIRES: check_json(text), and that it is an object.
void for_each_member(std::string_view text, const std::function<void(std::string_view, std::string_view)>& visit);

// Members of a parsed object; kFormat when `name` is missing or has another type or range.
Result<std::string> json_string(const nlohmann::json& object, const char* name);
Result<std::uint64_t> json_unsigned(const nlohmann::json& object, const char* name, std::uint64_t max = UINT64_MAX);
Result<std::int64_t> json_integer(const nlohmann::json& object, const char* name);
Result<double> json_seconds(const nlohmann::json& object, const char* name);  // finite and not negative
Result<std::uint64_t> json_hex(const nlohmann::json& object, const char* name, unsigned digits);  // lower case
Result<CheckpointId> json_id(const nlohmann::json& object, const char* name);
Result<std::string> json_utc(const nlohmann::json& object, const char* name);  // as utc() gives it, before 2262
// The member itself; null when it is missing.
const nlohmann::json* json_member(const nlohmann::json& object, const char* name);
Status json_mismatch(const nlohmann::json& object, const char* name, const std::string& expected);

std::string utc(std::time_t seconds_since_1970);      // "2026-11-20T12:00:00Z"
std::time_t seconds_of_utc(const std::string& text);  // -1: it is no such text
std::string json_quote(std::string_view text);        // what is not UTF-8 in it is replaced
bool parse_hex(std::string_view digits, std::uint64_t* value);
std::string to_hex(std::uint64_t value, unsigned digits);  // lower case

}  // namespace ostraca
