// A module is a text. It is compiled, behind the words of the language (words/) and before a line for each of its kernels, into a library
// that is loaded by itself. The library is kept in a folder, under a name that says what it was made of, so a process compiles what no
// process before it has. Compiling takes a fraction of a second: the words are compiled once, when the driver is built, and a library needs
// no start-up files.

#include "module.h"

#include "sources.h"

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace emulator {
namespace {
constexpr int LINES_SHOWN = 12;

std::string folder_of_driver()
{
    Dl_info info{};
    dladdr(reinterpret_cast<void *>(&load_module), &info);
    char *full = info.dli_fname ? realpath(info.dli_fname, nullptr) : nullptr;
    std::string path = full ? full : "./libcuda.so.1";
    std::free(full);
    return path.substr(0, path.rfind('/'));
}

std::string content(const std::string &path)
{
    std::ifstream file(path, std::ios::binary);
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
}

std::string quoted(const std::string &text)
{
    std::string made = "'";
    for (char c : text)
        made += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return made + "'";
}

std::string compiler()
{
    const char *named = std::getenv("CXX");
    return named && *named ? named : "g++";
}

bool is_checked()
{
    const char *named = std::getenv("CUDA_EMULATOR_CHECKS");
    return !named || std::string(named) != "off";
}

// CUDA_EMULATOR_FLAGS are added: -O2, -g.
std::string more_flags()
{
    const char *named = std::getenv("CUDA_EMULATOR_FLAGS");
    return std::string(is_checked() ? "" : "-fno-sanitize=all ") + (named ? named : "");
}

// What stands before a text. With flags of somebody else the words that are compiled already do not fit: the compiler takes such only at the very
// beginning of a text.
std::string head()
{
    std::string words = is_checked() ? "#include \"language.h\"\n" : "#include \"unchecked.h\"\n";
    return (std::getenv("CUDA_EMULATOR_FLAGS") ? "namespace {}\n" : "") + words;
}

// What libraries are made with besides their text: another driver, other words or other flags make other libraries.
const std::string &ingredients()
{
    static const std::string all = [] {
        std::string words = folder_of_driver() + "/words/", text = compiler() + COMPILER_FLAGS + " " + more_flags();
        for (const char *name : {"kernel.h", "registration.h", "checks.h", "language.h", "vectors.h", "mathematics.h", "integers.h", "tensor_core.h", "hopper.h"})
            text += content(words + name);
        return text;
    }();
    return all;
}

uint64_t hash(const std::string &text, uint64_t from)
{
    for (unsigned char c : text)
        from = (from ^ c) * 0x100000001b3;
    return from;
}

std::string name_of(const std::string &text)
{
    char name[64];
    uint64_t first = hash(text, hash(ingredients(), 0xcbf29ce484222325)), second = hash(ingredients(), hash(text, 0x9e3779b97f4a7c15));
    std::snprintf(name, sizeof name, "%016llx%016llx", static_cast<unsigned long long>(first), static_cast<unsigned long long>(second));
    return name;
}

std::string cache_folder()
{
    const char *named = std::getenv("CUDA_EMULATOR_CACHE");
    std::string folder = named && *named ? named : folder_of_driver() + "/cache";
    mkdir(folder.c_str(), 0777);
    return folder;
}

Status refused(const std::string &why)
{
    say(why);
    return INVALID_SOURCE;
}

Status compile(const std::string &text, const std::string &to)
{
    // Other processes, and other threads of this one, may be at the same text: who is last puts the same thing there again.
    static std::atomic<unsigned> number{0};
    std::string own = to + "." + std::to_string(getpid()) + "." + std::to_string(number++), source = own + ".cpp", made = own + ".so";
    std::ofstream file(source);
    file << head() << "#line 1 \"kernels\"\n" << text << "\n#line 1 \"registrations\"\n" << registrations(text);
    file.close();
    if (!file)
        return refused("cannot write " + source + " (" + std::strerror(errno) +
                       "): make the folder writable, or let CUDA_EMULATOR_CACHE name one that is");
    std::string command = compiler() + " " COMPILER_FLAGS " " + more_flags() + " -I" + quoted(folder_of_driver() + "/words") + " -shared -nostdlib -o " +
                          quoted(made) + " " + quoted(source) + " -lm -lc -lgcc 2>&1";
    std::FILE *pipe = popen(command.c_str(), "r");
    std::string said;
    char line[4096];
    for (int lines = 0; pipe && std::fgets(line, sizeof line, pipe);)
        if (lines++ < LINES_SHOWN)
            said += std::string("\n    ") + line;
    int status = pipe ? pclose(pipe) : -1;
    std::remove(source.c_str());
    if (status != 0 || std::rename(made.c_str(), to.c_str()) != 0) {
        std::remove(made.c_str());
        return refused("a module does not compile with " + compiler() + " (CXX names another compiler):" + said);
    }
    return SUCCESS;
}
} // namespace

Module::~Module() { dlclose(handle); }

Status load_module(const char *image, int device, std::shared_ptr<Module> *module)
{
    if (std::strncmp(image, "// CUDA C++", 11) != 0 || (image[11] != '\n' && image[11] != '\r')) {
        say("a module is no source text: the emulator takes those that begin with the line '// CUDA C++', and no CUBIN or PTX");
        return INVALID_IMAGE;
    }
    std::string text = image, path = cache_folder() + "/" + name_of(text) + ".so";
    if (access(path.c_str(), R_OK) != 0)
        if (Status status = compile(text, path))
            return status;
    void *handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return refused(std::string("a module that was compiled does not load: ") + dlerror() + "; remove " + path);
    auto *module_of = reinterpret_cast<const Library *(*)()>(dlsym(handle, "emulated_module"));
    auto made = std::make_shared<Module>();
    made->device = device, made->handle = handle, made->library = module_of ? module_of() : nullptr;
    if (!made->library)
        return refused(path + " is no module's library; remove it");
    for (const Entry *entry = made->library->first; entry; entry = entry->next)
        made->functions[entry->name] = {made.get(), entry, 48 << 10};
    *module = made;
    return SUCCESS;
}
} // namespace emulator
