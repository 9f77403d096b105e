// Walks encoded key paths without allocating; the functions of ostraca/types.h and the directory's checks share it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "ostraca/types.h"

namespace ostraca {

bool valid_utf8(std::string_view text);

// A KeyPart that borrows its text.
struct KeyPartView {
  KeyPart::Type type = KeyPart::Type::kString;
  std::string_view text;
  std::int64_t integer = 0;
};

// Takes the first part off `rest`. Null on success, otherwise what is wrong with it. REQUIRES: !rest->empty()
const char* next_key_part(std::string_view* rest, KeyPartView* part);

// Parts of the same container can be siblings: a dict has string and integer keys.
inline int container_of(KeyPart::Type type) { return type == KeyPart::Type::kInteger ? 1 : static_cast<int>(type); }

// Appends the part as display names spell it.
void append_display(const KeyPartView& part, std::string* name);

// For messages: the display name, cut to a readable length; something readable when `encoded` is malformed.
std::string printable_name(std::string_view encoded);
// The first of several names: "'a', 'b' and 3 more".
std::string listed_names(std::span<const std::string> names);

}  // namespace ostraca
