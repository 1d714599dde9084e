/*
 * libFuzzer's entry into one target. The core's functions are reached as Cython modules reach each
 * other, through capsules, so Python starts once and then takes no part: inputs run without it.
 */
#include <Python.h>
#include <sanitizer/lsan_interface.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef int (*one_fn)(const uint8_t *data, size_t n);
typedef const char *(*failure_fn)(void);

static one_fn one;
static failure_fn failure;

static void *capsule(const char *module_name, const char *function)
{
	PyObject *module = PyImport_ImportModule(module_name), *table, *found;

	if (!module || !(table = PyObject_GetAttrString(module, "__pyx_capi__")) ||
	    !(found = PyDict_GetItemString(table, function))) {
		PyErr_Print();
		fprintf(stderr, "fuzz: no %s in %s\n", function, module_name);
		exit(2);
	}
	return PyCapsule_GetPointer(found, PyCapsule_GetName(found));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *target = getenv("HOOKER_FUZZ_TARGET");
	char name[64], function[64];

	(void)argc;
	(void)argv;
	if (!target) {
		fprintf(stderr, "fuzz: HOOKER_FUZZ_TARGET names no target\n");
		exit(2);
	}
	__lsan_disable();		/* what Python keeps for good is no leak of ours */
	Py_InitializeEx(0);
	snprintf(name, sizeof(name), "fuzz.%s", target);
	snprintf(function, sizeof(function), "one_%s", target);
	one = (one_fn)capsule(name, function);
	failure = (failure_fn)capsule("fuzz.side", "failure");
	PyEval_SaveThread();
	__lsan_enable();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (one(data, n)) {
		fprintf(stderr, "fuzz: %s\n", failure());
		abort();
	}
	return 0;
}
