// Names that system headers are known to define as macros must not occur in ours. The standard library and Eigen come
// first: they have their own ways of defending themselves.
#include "other_headers.hpp"

#define I hostile         // <complex.h>
#define complex hostile   // <complex.h>
#define imaginary hostile // <complex.h>
#define B0 hostile        // <termios.h>
#define B50 hostile       // <termios.h>
#define small hostile     // <rpcndr.h>
#define near hostile      // <windef.h>
#define far hostile       // <windef.h>
#define IN hostile        // <minwindef.h>
#define OUT hostile       // <minwindef.h>
#define interface hostile // <combaseapi.h>
#define ERROR hostile     // <wingdi.h>
#define Success hostile   // <X11/X.h>
#define None hostile      // <X11/X.h>
#define Always hostile    // <X11/X.h>
#define Status hostile    // <X11/Xlib.h>
#define Bool hostile      // <X11/Xlib.h>
#define True hostile      // <X11/Xlib.h>
#define False hostile     // <X11/Xlib.h>
#define major hostile     // <sys/sysmacros.h>
#define minor hostile     // <sys/sysmacros.h>
#define unix hostile      // -std=gnu++20
#define linux hostile     // -std=gnu++20
#define DOMAIN hostile    // <math.h>
#define OVERFLOW hostile  // <math.h>
#define UNDERFLOW hostile // <math.h>
#define check hostile     // <AssertMacros.h>
#define verify hostile    // <AssertMacros.h>
#define emit hostile      // Qt
#define slots hostile     // Qt
#define signals hostile   // Qt
#define foreach hostile   // Qt
#define PI hostile        // many
#define EPS hostile       // many
#define MIN hostile       // many
#define MAX hostile       // many

#include "slim/slim.hpp"

int main() {}
