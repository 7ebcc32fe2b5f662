{
  "variables": { "sanitize%": "" },
  "targets": [
    {
      "target_name": "kernelmq",
      "sources": [
        "native/addon.cc",
        "native/block.cc",
        "native/blocked_call.cc",
        "native/descriptor.cc",
        "native/environment.cc",
        "native/interrupt.cc",
        "native/posix.cc",
        "native/poll.cc",
        "native/sysv.cc"
      ],
      "include_dirs": ["<!(node -p \"require(require.resolve('node-addon-api', { paths: ['.', ...process.env.PATH.split(':')] })).include_dir\")"],
      "defines": [
        "NAPI_VERSION=8",
        "NODE_ADDON_API_DISABLE_DEPRECATED",
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
        "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS"
      ],
      "cflags": ["-Wall", "-Wextra", "-fvisibility=hidden"],
      "cflags_cc": ["-std=c++17", "-fno-exceptions"],
      "ldflags": ["-Wl,-z,nodelete", "-Wl,-z,now", "-Wl,-z,relro"],
      "conditions": [
        [
          "sanitize!=''",
          { "cflags": ["-g", "-fsanitize=<(sanitize)"], "ldflags": ["-fsanitize=<(sanitize)"] }
        ]
      ]
    }
  ]
}
