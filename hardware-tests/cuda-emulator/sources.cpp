// Finds the kernels of a text: `extern "C" __global__ void name(`, with launch bounds at either place where they may stand, and whatever spaces
// and comments between the words. A text is read as a compiler does it first: as words, without comments and without what is for the
// preprocessor. So kernels that a macro makes are not found, and those in a part that #if leaves out are found and do not compile.

#include "sources.h"

#include <cctype>
#include <set>
#include <vector>

namespace emulator {
namespace {
using Words = std::vector<std::string>;

bool is_of_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// Where a string or a character that begins there ends.
size_t end_of_literal(const std::string &text, size_t from)
{
    size_t at = from + 1;
    while (at < text.size() && text[at] != text[from])
        at += text[at] == '\\' ? 2 : 1;
    return at + 1;
}

size_t end_of_line(const std::string &text, size_t at)
{
    while (at < text.size() && (text[at] != '\n' || text[at - 1] == '\\'))
        at++;
    return at;
}

Words words_of(const std::string &text)
{
    Words words;
    bool is_line_start = true;
    for (size_t at = 0; at < text.size();) {
        size_t end = at + 1;
        char c = text[at];
        if (c == '\n') {
            is_line_start = true;
        } else if (std::isspace(static_cast<unsigned char>(c))) {
        } else if (c == '#' && is_line_start) {
            end = end_of_line(text, at);
        } else if (text.compare(at, 2, "//") == 0) {
            end = end_of_line(text, at);
        } else if (text.compare(at, 2, "/*") == 0) {
            size_t close = text.find("*/", at + 2);
            end = close == std::string::npos ? text.size() : close + 2;
        } else {
            is_line_start = false;
            if (c == '"' || (c == '\'' && (at == 0 || !is_of_word(text[at - 1]))))
                end = end_of_literal(text, at);
            else if (is_of_word(c))
                while (end < text.size() && is_of_word(text[end]))
                    end++;
            words.push_back(text.substr(at, end - at));
        }
        at = end;
    }
    return words;
}

// What stands between the parentheses that open there; `at` goes behind them.
std::string in_parentheses(const Words &words, size_t &at)
{
    std::string inside;
    int depth = 0;
    do {
        depth += words[at] == "(" ? 1 : words[at] == ")" ? -1 : 0;
        if (depth > 0 && !(depth == 1 && words[at] == "("))
            inside += words[at] + " ";
        at++;
    } while (depth > 0 && at < words.size());
    return inside;
}
} // namespace

std::string registrations(const std::string &text)
{
    const Words words = words_of(text);
    std::string lines;
    // A kernel may be declared before it is defined.
    std::set<std::string> seen;
    for (size_t i = 2; i < words.size(); i++) {
        if (words[i] != "__global__" || words[i - 1] != "\"C\"" || words[i - 2] != "extern")
            continue;
        std::string bounds, name;
        size_t at = i + 1;
        while (at < words.size() && words[at] != "(" && words[at] != ";") {
            name = words[at++];
            if (name == "__launch_bounds__" && at < words.size())
                bounds = in_parentheses(words, at);
        }
        if (at < words.size() && words[at] == "(" && !name.empty() && seen.insert(name).second)
            lines += "EMULATED_KERNEL(" + name + (bounds.empty() ? "" : ", " + bounds) + ")\n";
    }
    return lines;
}
} // namespace emulator
